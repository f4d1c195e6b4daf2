import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Consistency } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { Undoing } from '../jobs/undo.ts';
import { freeze, FREEZE_LIMIT_MS, type Freeze } from '../libvirt/freeze.ts';
import { startThawGuard, type ThawGuard } from '../libvirt/thawGuard.ts';
import { domainEnded } from '../transport/running.ts';
import type { Transport } from '../transport/transport.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';
import type { Prepared } from './prepare.ts';

/** The instant that the backup holds. */
export interface Snapshot {
  readonly time: Date;
  readonly consistency: Consistency;
}

/** Takes the snapshot of all disks at one instant, with the guest's file systems frozen around it when asked for. */
export async function* quiesce(
  context: JobContext,
  prepared: Prepared,
  transport: Transport,
  requested: string,
): AsyncGenerator<JobEvent, StageEnd<Snapshot>, undefined> {
  if (!prepared.running) {
    const message = 'The domain is shut off: its disks are at rest.';
    const consistency = { requested, quiesced: true, message, frozenMs: 0n };
    await transport.begin();
    return { result: { time: context.now(), consistency } };
  }
  const { uuid } = prepared.domain;
  let outcome: Freeze = { frozen: false, thawOwed: false, message: 'Quiescing is off.' };
  let frozenAtMs = 0;
  let owed: { readonly thaw: Undoing; readonly guard: ThawGuard } | undefined;
  if (requested !== 'off') {
    const { virsh, runtimeDirectory, control } = context;
    const guard = await startThawGuard(virsh.uri, uuid, runtimeDirectory, control.signal);
    const thaw = await context.undo.promise({ kind: 'thaw', domainUuid: uuid });
    frozenAtMs = context.now().getTime();
    guard.freezing();
    outcome = await freeze(virsh, uuid, control.signal);
    if (outcome.thawOwed) owed = { thaw, guard };
    else {
      await thaw.forget();
      guard.release();
    }
  }
  try {
    if (!outcome.frozen && requested === 'required') {
      throw (await domainEnded(context.virsh, prepared)) ?? notQuiesced(outcome.message);
    }
    await transport.begin();
    if (outcome.frozen && owed?.guard.isInTime() === false) {
      outcome = { ...outcome, frozen: false, message: TOO_LONG };
      if (requested === 'required') throw notQuiesced(outcome.message);
    }
  } finally {
    await owed?.thaw.now();
    owed?.guard.release();
  }
  const time = context.now();
  const { frozen: quiesced, message } = outcome;
  const frozenMs = BigInt(quiesced ? time.getTime() - frozenAtMs : 0);
  if (requested !== 'off' && !quiesced) {
    yield warning(
      'NOT_QUIESCED',
      `The backup is crash-consistent only, the guest was not quiesced: ${message}`,
    );
  }
  return {
    result: { time, consistency: { requested, quiesced, message, frozenMs } },
  };
}

const TOO_LONG =
  `The file systems were thawed after ${FREEZE_LIMIT_MS / 1_000} s, so that the guest waits no longer, and its disks ` +
  'were not held fast by then.';

function notQuiesced(why: string): HoldfastError {
  return new HoldfastError(
    'QUIESCE_FAILED',
    `The guest could not be quiesced, and that was required: ${why}`,
  );
}

import { chown, mkdir } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Consistency } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { Undoing } from '../jobs/undo.ts';
import { freeze, type Freeze } from '../libvirt/freeze.ts';
import { watchForStart, type StartWatch } from '../libvirt/lifecycle.ts';
import { beginPullBackup } from '../libvirt/pullBackup.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';
import type { Prepared } from './prepare.ts';
import { requireScratchSpace } from './scratch.ts';

/** The instant that the backup holds: QEMU keeps it on offer until `end`, or the images are at rest. */
export type Snapshot = {
  readonly time: Date;
  readonly consistency: Consistency;
} & (
  | { readonly kind: 'running'; readonly socket: string; readonly end: Undoing }
  | { readonly kind: 'stopped'; readonly watch: StartWatch }
);

/** Takes the snapshot of all disks at one instant, with the guest's file systems frozen around it when asked for. */
export async function* quiesce(
  context: JobContext,
  prepared: Prepared,
  requested: string,
): AsyncGenerator<JobEvent, StageEnd<Snapshot>, undefined> {
  if (!prepared.running) {
    const message = 'The domain is shut off: its disks are at rest.';
    const consistency = { requested, quiesced: true, message, frozenMs: 0n };
    const watch = watchForStart(context.virsh, prepared.domain.uuid);
    return { result: { kind: 'stopped', time: context.now(), consistency, watch } };
  }
  const { uuid } = prepared.domain;
  await makeSocketDirectory(context, prepared);
  const socket = join(context.socketDirectory, 'nbd.sock');
  await requireScratchSpace(dirname(context.scratchDirectory));
  const end = await context.undo.promise({ kind: 'end-pull-backup', domainUuid: uuid, socket });

  let outcome: Freeze = { frozen: false, thawOwed: false, message: 'Quiescing is off.' };
  let frozenAtMs = 0;
  let thawing: Undoing | undefined;
  if (requested !== 'off') {
    thawing = await context.undo.promise({ kind: 'thaw', domainUuid: uuid });
    frozenAtMs = context.now().getTime();
    outcome = await freeze(context.virsh, uuid, context.control.signal);
    if (!outcome.thawOwed) {
      await thawing.forget();
      thawing = undefined;
    }
  }
  try {
    if (!outcome.frozen && requested === 'required') {
      throw new HoldfastError(
        'QUIESCE_FAILED',
        `The guest could not be quiesced, and that was required: ${outcome.message}`,
      );
    }
    const targets = prepared.disks.map(({ disk }) => disk.target);
    await beginPullBackup(
      context.virsh,
      {
        uuid,
        socket,
        scratchDirectory: context.scratchDirectory,
        targets,
        excluded: prepared.excluded.map((disk) => disk.target),
      },
      context.control.signal,
    );
  } finally {
    await thawing?.now();
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
    result: { kind: 'running', time, socket, end, consistency: { requested, quiesced, message, frozenMs } },
  };
}

/** QEMU makes the socket itself, as its own user. */
async function makeSocketDirectory(context: JobContext, prepared: Prepared): Promise<void> {
  await mkdir(context.socketDirectory, { recursive: true, mode: 0o700 });
  const owner = prepared.xml.qemuOwner;
  if (owner !== undefined && process.getuid?.() === 0)
    await chown(context.socketDirectory, owner.uid, owner.gid);
}

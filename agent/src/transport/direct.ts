import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { stateNow } from '../libvirt/domains.ts';
import { watchForStart } from '../libvirt/lifecycle.ts';
import type { JobContext } from '../stages/context.ts';
import { copy, type CopyDisk } from '../stages/copy.ts';
import { domainStarted } from '../stages/domainStarted.ts';
import { requireUnchanged } from '../stages/imageChanged.ts';
import { openSources } from '../stages/openSources.ts';
import type { Prepared } from '../stages/prepare.ts';
import { watchSourceImages } from './sourceImages.ts';
import type { Transport } from './transport.ts';

/**
 * Direct: the images of a domain that is shut off are read where they lie, without a lock, so that the domain can be
 * started at any time; then the copy is worth nothing, unless all of it comes from snapshots.
 *
 * @param stages that this one pass is: blockjob and convert, and encrypt when that is on
 */
export function directTransport(
  context: JobContext,
  prepared: Prepared,
  stages: readonly Stage[],
): Transport {
  const { virsh, control } = context;
  const watch = watchForStart(virsh, prepared.domain);
  const mayStart = prepared.disks.every(({ stopped }) => stopped?.snapshot === true);
  let sources: readonly CopyDisk[] = [];
  const images = watchSourceImages(context, prepared);
  const requireStopped = (): void => {
    if (!mayStart && watch.wasStarted()) throw domainStarted(prepared.domain);
  };
  /** A start that has ended again by now counts too: it may have written. */
  const requireStoppedAllTheTime = async (): Promise<void> => {
    if (mayStart) return;
    requireStopped();
    if ((await stateNow(virsh, prepared.domain)) !== 'shut off') throw domainStarted(prepared.domain);
    await requireUnchanged(prepared.disks);
  };
  return {
    name: 'direct',
    begin: () => Promise.resolve(),
    copy: async function* () {
      sources = await openSources(prepared, async ({ disk: { target }, stopped }) => {
        if (stopped === undefined) throw new Error(`disk ${target} has no source`);
        for (const [id, secret] of stopped.secrets) await prepared.daemon.addSecret(id, secret, 'base64');
        return { options: stopped.options, extents: stopped.extents };
      });
      const end = yield* copy(
        prepared.daemon,
        sources,
        control,
        {
          job: { kind: 'backup', compress: prepared.layout.compression !== '' },
          repository: 'write',
          stages,
          watch: (idleMs) => {
            requireStopped();
            prepared.requireRepository();
            images.whenIdle(idleMs);
          },
          explain: () => images.fault(),
        },
        context.now,
      );
      await requireStoppedAllTheTime();
      return end;
    },
    snapshot: {
      read: async function* (how) {
        const result = yield* how(sources, requireStopped);
        await requireStoppedAllTheTime();
        return result;
      },
    },
    end: () => Promise.resolve(),
    [Symbol.asyncDispose]: () => watch.stop(),
  };
}

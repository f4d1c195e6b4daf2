import { dirname, join } from 'node:path';
import type { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { beginPullBackup } from '../libvirt/pullBackup.ts';
import { domainDirectory } from '../libvirt/qemuProcess.ts';
import { mapNbdExport } from '../qemu/extents.ts';
import type { JobContext, StageRun } from '../stages/context.ts';
import { copy, type CopyDisk, type CopyEnd } from '../stages/copy.ts';
import { openSources } from '../stages/openSources.ts';
import type { Prepared } from '../stages/prepare.ts';
import { guardScratch, requireScratchSpace, type ScratchGuard } from '../stages/scratch.ts';
import { makeExportDirectory } from './exporter.ts';
import { domainEnded } from './running.ts';
import { watchSourceImages } from './sourceImages.ts';
import type { Transport } from './transport.ts';

/**
 * Pull: QEMU offers the disks as they were at one instant, and keeps in scratch space what the guest overwrites
 * meanwhile.
 *
 * @param stages that this one pass is: blockjob and convert, and encrypt when that is on
 * @throws HoldfastError SCRATCH_FULL before the guest is touched
 */
export async function pullTransport(
  context: JobContext,
  prepared: Prepared,
  stages: readonly Stage[],
): Promise<Transport> {
  const { virsh, control } = context;
  const { uuid } = prepared.domain;
  const socket = await exportSocket(context, prepared);
  const scratchRoot = dirname(context.scratchDirectory);
  await requireScratchSpace(scratchRoot);
  const undoing = await context.undo.promise({
    kind: 'end-pull-backup',
    ...{ domainUuid: uuid, socket, scratchDirectory: context.scratchDirectory },
  });
  let guard: ScratchGuard | undefined;
  let sources: readonly CopyDisk[] = [];
  return {
    name: 'pull',
    begin: async () => {
      await beginPullBackup(
        virsh,
        {
          uuid,
          socket,
          scratchDirectory: context.scratchDirectory,
          targets: prepared.disks.map(({ disk }) => disk.target),
          excluded: prepared.excluded.map((disk) => disk.target),
        },
        control.signal,
      ).catch(async (error: unknown) => {
        // libvirt does not always say why it could not make the scratch images.
        await requireScratchSpace(scratchRoot);
        throw error;
      });
      guard = guardScratch(scratchRoot, () => undoing.now());
    },
    copy: async function* () {
      try {
        return yield* copyFromQemu();
      } catch (error) {
        // The guest was let go, which everything that reads from it fails of.
        throw guard?.failure ?? error;
      }
    },
    snapshot: {
      read: async function* (how) {
        try {
          return yield* how(sources, () => {
            if (guard?.failure !== undefined) throw guard.failure;
          });
        } catch (error) {
          if (control.signal.aborted) throw error;
          throw guard?.failure ?? (await domainEnded(virsh, prepared)) ?? error;
        }
      },
    },
    // As soon as the data has been read and QEMU's tools read no more of it.
    end: async () => {
      guard?.close();
      await undoing.now();
    },
    [Symbol.asyncDispose]: () => {
      guard?.close();
      return Promise.resolve();
    },
  };

  async function* copyFromQemu(): StageRun<CopyEnd> {
    sources = await openSources(prepared, async ({ disk: { target } }) => {
      const server = { type: 'unix', path: socket };
      const { extents } = await mapNbdExport(socket, target, control.signal);
      return { options: { driver: 'nbd', server, export: target, 'read-only': true }, extents };
    });
    const images = watchSourceImages(context, prepared);
    return yield* copy(
      prepared.daemon,
      sources,
      control,
      {
        job: { kind: 'backup', compress: prepared.layout.compression !== '' },
        repository: 'write',
        stages,
        watch: (idleMs) => {
          if (guard?.failure !== undefined) throw guard.failure;
          prepared.requireRepository();
          images.whenIdle(idleMs);
        },
        explain: async () => (await domainEnded(virsh, prepared)) ?? images.fault(),
      },
      context.now,
    );
  }
}

/** sun_path, without its final zero. */
const SOCKET_PATH_BYTES = 107;

/** Where QEMU listens: in the domain's own directory, where AppArmor lets it, or else in one of the job's. */
async function exportSocket(context: JobContext, prepared: Prepared): Promise<string> {
  const directory = await domainDirectory(prepared.domain.uuid);
  const socket = directory === undefined ? '' : join(directory, `holdfast-${context.header.jobId}.sock`);
  if (socket !== '' && Buffer.byteLength(socket) <= SOCKET_PATH_BYTES) return socket;
  await makeExportDirectory(context, prepared);
  return join(context.socketDirectory, 'nbd.sock');
}

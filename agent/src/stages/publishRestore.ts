import { link, open, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { rbdWith } from '../ceph/rbd.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { FileLink, Undoing } from '../jobs/undo.ts';
import { restoredDomainXml } from '../libvirt/restoredXml.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { JobContext, StageEnd } from './context.ts';
import { domainXmlOf } from './openBackup.ts';
import type { PreparedRestore } from './prepareRestore.ts';
import { closePlace, newImage, placeParent, placePath, type RestorePlace } from './restorePlace.ts';
import { writeState, type RestoreState } from './restoreState.ts';

/** Makes the restored images complete. */
export async function finishRestore(prepared: PreparedRestore): Promise<void> {
  for (const disk of prepared.disks) {
    await closePlace(prepared.daemon, disk).catch((error: unknown) => {
      if (!(error instanceof QmpError)) throw error;
      throw new HoldfastError(
        disk.place.kind === 'file' ? 'DIRECTORY_UNUSABLE' : 'QEMU_FAILED',
        `Disk ${disk.target} could not be completed in ${placeParent(disk.place)}: ${error.description}`,
        { cause: error },
      );
    });
  }
  await prepared.daemon.quit();
  await prepared.daemonStop.forget();
}

/** Gives the images their names, all or none. */
export async function* publishRestore(
  context: JobContext,
  start: RestoreBackupStart,
  prepared: PreparedRestore,
  state: RestoreState,
): AsyncGenerator<JobEvent, StageEnd<RestoreResult>, undefined> {
  yield* [];
  const { disks, xmlPath } = prepared;
  const links: FileLink[] = disks.flatMap(({ place }) => (place.kind === 'file' ? [place] : []));
  const stateFiles = await writeState(context, state);
  links.push(...stateFiles.links);
  const leftovers = [...stateFiles.leftovers];
  if (xmlPath !== undefined) {
    const temporary = `${xmlPath}.${context.header.jobId}.partial`;
    leftovers.push(await context.undo.promise({ kind: 'remove-local', path: temporary }));
    const images = new Map(disks.map((disk) => [disk.target, newImage(disk.place)]));
    const identity = start.domainName === '' ? undefined : { name: start.domainName, uuid: state.domainUuid };
    const original = await domainXmlOf(prepared.backup);
    const xml = restoredDomainXml(original, images, identity, state.nvram?.final);
    await writeFile(temporary, xml, { flag: 'wx', mode: 0o600 });
    links.push({ temporary, final: xmlPath });
  }
  for (const { temporary } of links) await sync(temporary);
  context.control.signal.throwIfAborted();
  const named: Undoing[] = [];
  for (const disk of disks) if (disk.place.kind === 'rbd') named.push(await rename(context, disk.place));
  named.push(await context.undo.promise({ kind: 'unlink', links }));
  for (const { temporary, final } of links) {
    // Unlike rename(2), link(2) never overwrites.
    await link(temporary, final).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new HoldfastError('TARGET_EXISTS', `${final} was made by another; a restore overwrites nothing.`);
    });
  }
  const folders = [...links.map(({ final }) => dirname(final)), ...(state.tpm?.folders ?? [])];
  for (const folder of new Set(folders)) await sync(folder);
  for (const each of named) await each.forget();
  for (const folder of stateFiles.folders) await folder.forget();
  // A renamed image has no temporary name any more.
  for (const { place, temporaryGone } of disks)
    await (place.kind === 'file' ? temporaryGone.now() : temporaryGone.forget());
  for (const leftover of leftovers) await leftover.now();
  return {
    result: {
      disks: disks.map(({ target, place, virtualSizeBytes }) => ({
        target,
        path: placePath(place),
        format: newImage(place).format,
        virtualSizeBytes: BigInt(virtualSizeBytes),
      })),
      domainXmlPath: xmlPath ?? '',
      nvramPath: state.nvram?.final ?? '',
      tpmStatePath: state.tpmStatePath,
    },
  };
}

/** Like link(2), renaming an image overwrites nothing. */
async function rename(
  context: JobContext,
  { temporary, final }: Extract<RestorePlace, { kind: 'rbd' }>,
): Promise<Undoing> {
  const { runtimeDirectory: directory } = context;
  const rbd = rbdWith(context.virsh, directory);
  const { id } = await rbd.info(temporary);
  const named = await context.undo.promise({ kind: 'remove-rbd-image', image: final, id, directory });
  await rbd.rename(temporary, final.name);
  return named;
}

async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

import { link, open, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { RestoreResult } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { FileLink } from '../jobs/undo.ts';
import { restoredDomainXml } from '../libvirt/restoredXml.ts';
import { targetNodes } from '../qemu/layout.ts';
import { QmpError } from '../qemu/qmp.ts';
import type { JobContext, StageEnd } from './context.ts';
import { savedContent } from './openBackup.ts';
import { closeRawTarget, closeTarget } from './openTarget.ts';
import { RESTORED_LAYOUT, type PreparedRestore } from './prepareRestore.ts';
import { writeState, type RestoreState } from './restoreState.ts';

/** Makes the restored files complete. */
export async function finishRestore(prepared: PreparedRestore): Promise<void> {
  for (const disk of prepared.disks) {
    const target = {
      nodes: targetNodes(disk.target),
      layout: RESTORED_LAYOUT,
      virtualSizeBytes: disk.virtualSizeBytes,
      path: disk.temporary,
    };
    await (prepared.format === 'raw' ? closeRawTarget : closeTarget)(prepared.daemon, target).catch(
      (error: unknown) => {
        if (!(error instanceof QmpError)) throw error;
        throw new HoldfastError(
          'DIRECTORY_UNUSABLE',
          `Disk ${disk.target} could not be completed in ${dirname(disk.final)}: ${error.description}`,
          { cause: error },
        );
      },
    );
  }
  await prepared.daemon.quit();
  await prepared.daemonStop.forget();
}

/** Gives the files their names, all or none. */
export async function* publishRestore(
  context: JobContext,
  start: RestoreBackupStart,
  prepared: PreparedRestore,
  state: RestoreState,
): AsyncGenerator<JobEvent, StageEnd<RestoreResult>, undefined> {
  yield* [];
  const { disks, format, xmlPath } = prepared;
  const links: FileLink[] = disks.map(({ temporary, final }) => ({ temporary, final }));
  const stateFiles = await writeState(context, state);
  links.push(...stateFiles.links);
  const leftovers = [...disks.map((disk) => disk.temporaryGone), ...stateFiles.leftovers];
  if (xmlPath !== undefined) {
    const temporary = `${xmlPath}.${context.header.jobId}.partial`;
    leftovers.push(await context.undo.promise({ kind: 'remove-local', path: temporary }));
    const images = new Map(disks.map((disk) => [disk.target, { path: disk.final, format }]));
    const identity = start.domainName === '' ? undefined : { name: start.domainName, uuid: state.domainUuid };
    const original = await savedContent(prepared.backup, prepared.backup.manifest.domainXmlFile);
    const xml = restoredDomainXml(Buffer.from(original).toString(), images, identity, state.nvram?.final);
    await writeFile(temporary, xml, { flag: 'wx', mode: 0o600 });
    links.push({ temporary, final: xmlPath });
  }
  for (const { temporary } of links) await sync(temporary);

  context.control.signal.throwIfAborted();
  const named = await context.undo.promise({ kind: 'unlink', links });
  for (const { temporary, final } of links) {
    // Unlike rename(2), link(2) never overwrites.
    await link(temporary, final).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      throw new HoldfastError('TARGET_EXISTS', `${final} was made by another; a restore overwrites nothing.`);
    });
  }
  const folders = [...links.map(({ final }) => dirname(final)), ...(state.tpm?.folders ?? [])];
  for (const folder of new Set(folders)) await sync(folder);
  await named.forget();
  for (const folder of stateFiles.folders) await folder.forget();
  for (const leftover of leftovers) await leftover.now();
  return {
    result: {
      disks: disks.map((disk) => ({
        target: disk.target,
        path: disk.final,
        format,
        virtualSizeBytes: BigInt(disk.virtualSizeBytes),
      })),
      domainXmlPath: xmlPath ?? '',
      nvramPath: state.nvram?.final ?? '',
      tpmStatePath: state.tpmStatePath,
    },
  };
}

async function sync(path: string): Promise<void> {
  const file = await open(path, 'r');
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

import { randomUUID } from 'node:crypto';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { FileLink, Undoing } from '../jobs/undo.ts';
import { libvirtStateDirectory } from '../libvirt/nativeArguments.ts';
import { isTpmVersion, swtpmDirectory, tpmDirectory, tpmStateFile, type TpmVersion } from '../libvirt/tpm.ts';
import { warning, type JobContext, type StageEnd } from './context.ts';
import { savedContent, type PublishedBackup } from './openBackup.ts';
import { fileStem, requireFree } from './prepareRestore.ts';

/** A file of a domain's state that is being restored. */
interface StateFile extends FileLink {
  readonly content: Uint8Array;
  /** Directories that are made for it, outermost first. */
  readonly folders: readonly string[];
}

/** What makes a restored domain beside its disks. */
export interface RestoreState {
  /** The restored domain's UUID: a new one when it gets a new name. */
  readonly domainUuid: string;
  readonly nvram: StateFile | undefined;
  readonly tpm: StateFile | undefined;
  /** Where the TPM's state is: there already, or when the restore has ended. Empty without one. */
  readonly tpmStatePath: string;
}

/**
 * Finds out where a domain's state goes; nothing of it when single disks are restored.
 *
 * @throws HoldfastError TARGET_EXISTS, BACKUP_DAMAGED before anything is made.
 */
export async function* prepareState(
  context: JobContext,
  start: RestoreBackupStart,
  backup: PublishedBackup,
): AsyncGenerator<JobEvent, StageEnd<RestoreState>, undefined> {
  const { manifest } = backup;
  const domainUuid = start.domainName === '' ? manifest.domainUuid : randomUUID();
  const none: RestoreState = { domainUuid, nvram: undefined, tpm: undefined, tpmStatePath: '' };
  if (start.disks.length > 0) return { result: none };
  const stem = fileStem(start.domainName === '' ? manifest.domainName : start.domainName);
  const beside = async (name: string, content: Uint8Array): Promise<StateFile> => {
    const final = join(start.directory, `${stem}-${name}`);
    await requireFree(final);
    return { content, final, temporary: `${final}.${context.header.jobId}.partial`, folders: [] };
  };

  const nvramFile = manifest.nvram?.file;
  const nvram = nvramFile && (await beside('nvram.fd', await savedContent(backup, nvramFile.file)));
  const { state: tpmSaved, version = '' } = manifest.tpm ?? {};
  if (tpmSaved === undefined) return { result: { ...none, nvram } };
  if (!isTpmVersion(version)) {
    throw new HoldfastError(
      'BACKUP_DAMAGED',
      `The manifest has the state of a TPM of version ${JSON.stringify(version)}, which does not exist.`,
    );
  }

  const content = await savedContent(backup, tpmSaved.file);
  const place = await placeForTpm(context, domainUuid, version, content);
  switch (place.kind) {
    case 'free':
      return { result: { ...none, nvram, tpm: place.file, tpmStatePath: place.file.final } };
    case 'same':
      return { result: { ...none, nvram, tpmStatePath: place.path } };
    case 'occupied':
    case 'unknown': {
      const tpm = await beside(tpmStateFile(version), content);
      yield warning('TPM_STATE_ASIDE', `${aside(place, domainUuid)} The backup's is in ${tpm.final}.`);
      return { result: { ...none, nvram, tpm, tpmStatePath: tpm.final } };
    }
  }
}

/** Writes the files under their temporary names. */
export async function writeState(
  context: JobContext,
  state: RestoreState,
): Promise<{
  readonly links: readonly FileLink[];
  /** To be undone when the files have their names. */
  readonly leftovers: readonly Undoing[];
  /** To be forgotten when the files have their names. */
  readonly folders: readonly Undoing[];
}> {
  const files = [state.nvram, state.tpm].filter((file) => file !== undefined);
  const leftovers: Undoing[] = [];
  const folders: Undoing[] = [];
  for (const file of files) {
    for (const path of file.folders) {
      folders.push(await context.undo.promise({ kind: 'remove-empty-folder', path }));
      const made = await mkdir(path, { recursive: true });
      // swtpm, which is not root, has to pass through.
      if (made !== undefined) await chmod(path, 0o711);
    }
    leftovers.push(await context.undo.promise({ kind: 'remove-local', path: file.temporary }));
    await writeFile(file.temporary, file.content, { flag: 'wx', mode: 0o600 });
  }
  return { links: files, leftovers, folders };
}

type TpmPlace =
  | { readonly kind: 'free'; readonly file: StateFile }
  /** What lies there is what would be restored. */
  | { readonly kind: 'same'; readonly path: string }
  | { readonly kind: 'occupied'; readonly path: string }
  | { readonly kind: 'unknown' };

/** Where libvirt looks for the state when it starts the domain; it gives it to swtpm's user then. */
async function placeForTpm(
  context: JobContext,
  domainUuid: string,
  version: TpmVersion,
  content: Uint8Array,
): Promise<TpmPlace> {
  const libvirtState = await libvirtStateDirectory(context.virsh, context.runtimeDirectory);
  if (libvirtState === undefined) return { kind: 'unknown' };
  const ofDomain = tpmDirectory(libvirtState, domainUuid);
  const ofSwtpm = join(ofDomain, swtpmDirectory(version));
  const final = join(ofSwtpm, tpmStateFile(version));
  const there = await readFile(final).catch(() => undefined);
  if (there !== undefined) return { kind: there.equals(content) ? 'same' : 'occupied', path: final };
  for (const folder of [ofDomain, ofSwtpm]) {
    const names = await readdir(folder).catch(() => []);
    if (names.some((name) => join(folder, name) !== ofSwtpm)) return { kind: 'occupied', path: final };
  }
  const temporary = `${ofDomain}.${context.header.jobId}.partial`;
  return {
    kind: 'free',
    file: { content, final, temporary, folders: [dirname(ofDomain), ofDomain, ofSwtpm] },
  };
}

function aside(place: TpmPlace & { readonly kind: 'occupied' | 'unknown' }, domainUuid: string): string {
  return place.kind === 'unknown'
    ? `libvirt does not tell where it keeps the state of TPMs, so domain ${domainUuid} will start with a new TPM.`
    : `Domain ${domainUuid} has another state of its TPM on this host already (${place.path}), which was left as it is.`;
}

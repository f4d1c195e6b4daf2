import { pMapIterable } from 'p-map';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';
import {
  ScannedFolder,
  ScannedFolderState,
  type ScannedKey,
  type ScanRepositoryResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { isPartial, keyIdOfFile, MANIFEST_FILE, parseBackupFolder, ZONE_KEYS_FOLDER } from './layout.ts';
import { parseManifest, savedFiles } from './manifestFile.ts';
import type { Repository } from './repository.ts';

const {
  SCANNED_FOLDER_STATE_BACKUP,
  SCANNED_FOLDER_STATE_UNFINISHED,
  SCANNED_FOLDER_STATE_FOREIGN,
  SCANNED_FOLDER_STATE_DAMAGED,
  SCANNED_FOLDER_STATE_MOVED,
} = ScannedFolderState;

/** A NAS answers some questions at once faster than one after the other. */
const FOLDERS_AT_ONCE = 8;
/** A message of gRPC has at most 4 MiB; what is larger than a manifest ever was could not be sent in one. */
const MAX_SENT_MANIFEST_BYTES = 3 * 1024 * 1024;
const MAX_MAC_BYTES = 1_024;
const MAX_KEY_BYTES = 64 * 1024;
const BATCH_BYTES = 512 * 1024;
const BATCH_FOLDERS = 500;

/**
 * Reads what lies in a repository, in the order of the paths, a batch at a time. Changes nothing, and follows no link. A
 * folder that goes away meanwhile is not told of.
 *
 * @throws HoldfastError SHUTTING_DOWN when the signal aborts, REPOSITORY_STALLED, and what is wrong with the whole
 */
export async function* scanRepository(
  repository: Repository,
  signal: AbortSignal,
): AsyncGenerator<ScanRepositoryResponse, void, undefined> {
  await repository.recognize();
  let batch: ScannedFolder[] = [];
  let bytes = 0;
  for await (const folder of scan(repository)) {
    if (signal.aborted) throw new HoldfastError('SHUTTING_DOWN', 'The scan was ended.');
    const size = bytesOf(folder);
    if (batch.length > 0 && (bytes + size > BATCH_BYTES || batch.length >= BATCH_FOLDERS)) {
      yield { folders: batch };
      batch = [];
      bytes = 0;
    }
    batch.push(folder);
    bytes += size;
  }
  if (batch.length > 0) yield { folders: batch };
}

async function* scan(repository: Repository): AsyncGenerator<ScannedFolder, void, undefined> {
  for (const domain of ((await repository.foldersIn('.')) ?? []).toSorted()) {
    if (domain === ZONE_KEYS_FOLDER) continue;
    if (!isUuid(domain)) {
      yield foreign(domain);
      continue;
    }
    let names: readonly string[];
    try {
      names = (await ofFolder(repository, () => repository.foldersIn(domain))) ?? [];
    } catch (error) {
      yield unreadable(domain, error);
      continue;
    }
    const paths = names.toSorted().map((name) => `${domain}/${name}`);
    const folders = pMapIterable(paths, (path) => lookAt(repository, path), {
      concurrency: FOLDERS_AT_ONCE,
    });
    for await (const folder of folders) if (folder !== undefined) yield folder;
  }
}

/** Undefined when it is gone. */
async function lookAt(repository: Repository, path: string): Promise<ScannedFolder | undefined> {
  if (isPartial(path)) {
    const message = 'It is being written or removed, or never was to the end. See holdfast doctor.';
    return found(path, SCANNED_FOLDER_STATE_UNFINISHED, message);
  }
  const named = parseBackupFolder(path);
  if (named === undefined) return foreign(path);
  try {
    return await ofFolder(repository, () => readBackup(repository, path, named));
  } catch (error) {
    return unreadable(path, error);
  }
}

async function readBackup(
  repository: Repository,
  path: string,
  named: { readonly domainUuid: string; readonly backupId: string },
): Promise<ScannedFolder | undefined> {
  const files = await repository.filesIn(path);
  if (files === undefined) return undefined;
  const read = async (name: string, maxBytes: number): Promise<Buffer | undefined> => {
    const bytes = files.includes(name) ? await repository.readFile(`${path}/${name}`, maxBytes) : undefined;
    return bytes && Buffer.from(bytes);
  };
  const json = await read(MANIFEST_FILE, MAX_SENT_MANIFEST_BYTES);
  if (json === undefined) {
    // It may have been removed since it was listed.
    if (!(await repository.hasFolder(path))) return undefined;
    return found(path, SCANNED_FOLDER_STATE_DAMAGED, `${MANIFEST_FILE} is missing.`);
  }
  let manifest: Manifest;
  try {
    manifest = parseManifest(json, `${path}/${MANIFEST_FILE}`);
  } catch (error) {
    if (!(error instanceof HoldfastError)) throw error;
    return found(path, SCANNED_FOLDER_STATE_DAMAGED, error.message);
  }
  if (manifest.backupId !== named.backupId || manifest.domainUuid !== named.domainUuid) {
    const message =
      `Its manifest is that of backup ${manifest.backupId} of domain ${manifest.domainUuid}: it was copied or renamed. ` +
      'Nothing was changed.';
    return found(path, SCANNED_FOLDER_STATE_MOVED, message);
  }
  const wrong = await wrongFile(repository, path, files, manifest);
  if (wrong !== undefined) return found(path, SCANNED_FOLDER_STATE_DAMAGED, wrong);
  const whole = { path, state: SCANNED_FOLDER_STATE_BACKUP, message: '', manifestJson: json };
  if (manifest.encryption === undefined) return { ...whole, manifestMac: '', keys: [] };

  const mac = await read(manifest.encryption.macFile, MAX_MAC_BYTES);
  if (mac === undefined)
    return found(path, SCANNED_FOLDER_STATE_DAMAGED, `${manifest.encryption.macFile} is missing.`);
  const keys: ScannedKey[] = [];
  for (const { name, keyId } of keyFiles(files, manifest.encryption)) {
    const wrappedKey = await read(name, MAX_KEY_BYTES);
    if (wrappedKey !== undefined) keys.push({ keyId, wrappedKey });
  }
  if (keys.length === 0) {
    return found(
      path,
      SCANNED_FOLDER_STATE_DAMAGED,
      'The file with its key is missing: nothing opens it any more.',
    );
  }
  return { ...whole, manifestMac: mac.toString('utf8').trim(), keys };
}

/** What is wrong with the files that a manifest names; undefined when all are there. */
async function wrongFile(
  repository: Repository,
  path: string,
  files: readonly string[],
  manifest: Manifest,
): Promise<string | undefined> {
  const wanted: { readonly file: string; readonly bytes: bigint | undefined }[] = [
    ...manifest.disks.map(({ file, storedBytes }) => ({ file, bytes: storedBytes })),
    ...savedFiles(manifest).map(({ file, storedBytes }) => ({ file, bytes: storedBytes })),
    { file: manifest.domainXmlFile, bytes: undefined },
  ];
  for (const { file, bytes } of wanted) {
    if (!files.includes(file)) return `${file} is missing.`;
    if (bytes === undefined) continue;
    const length = await repository.fileBytes(`${path}/${file}`);
    if (length === undefined) return `${file} is missing.`;
    if (BigInt(length) !== bytes)
      return `${file} has ${length} bytes, and the manifest says ${bytes}: it was cut off or changed.`;
  }
  return undefined;
}

/** The files with a backup's key, by the ids of the zone keys that open them. */
function keyFiles(
  files: readonly string[],
  { wrappedKeyFile, keyId: firstId }: NonNullable<Manifest['encryption']>,
): { readonly name: string; readonly keyId: string }[] {
  return files.flatMap((name) => {
    const keyId = name === wrappedKeyFile ? firstId : keyIdOfFile(name);
    return keyId === undefined ? [] : [{ name, keyId }];
  });
}

/** Tries once more, so that what concerns the whole repository is not taken for the fault of one folder. */
async function ofFolder<Result>(repository: Repository, look: () => Promise<Result>): Promise<Result> {
  try {
    return await look();
  } catch (error) {
    if (!isOfFolder(error)) throw error;
    await repository.recognize();
    return await look();
  }
}

function isOfFolder(error: unknown): error is HoldfastError {
  return (
    error instanceof HoldfastError && ['REPOSITORY_FAILED', 'REPOSITORY_UNUSABLE'].includes(error.reason)
  );
}

function unreadable(path: string, error: unknown): ScannedFolder {
  if (!isOfFolder(error)) throw error;
  return found(path, SCANNED_FOLDER_STATE_DAMAGED, `It cannot be read. ${error.message}`);
}

function foreign(path: string): ScannedFolder {
  return found(path, SCANNED_FOLDER_STATE_FOREIGN, 'It is not named as Holdfast names its folders.');
}

function found(path: string, state: ScannedFolderState, message: string): ScannedFolder {
  return ScannedFolder.fromPartial({ path, state, message });
}

function bytesOf({ manifestJson, keys, message, path }: ScannedFolder): number {
  const ofKeys = keys.reduce((sum, { wrappedKey }) => sum + wrappedKey.length, 0);
  return manifestJson.length + ofKeys + message.length + path.length + 200;
}

import { createHash, randomUUID } from 'node:crypto';
import {
  lstat,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  statfs,
  unlink,
  type FileHandle,
} from 'node:fs/promises';
import { dirname, join, normalize, sep } from 'node:path';
import { run } from '../process/run.ts';
import { requireRepositoryId, takeRepositoryId } from './identity.ts';
import { acceptKeyEpoch, requireKeyEpoch } from './keyEpoch.ts';
import {
  findBackupKeyFiles,
  findZoneKeyFiles,
  removeZoneKeyFile,
  replaceFile,
  syncFolder,
  writeBackupKeyFiles,
  type BackupKeyFile,
  type FoundKeyFiles,
} from './keyFiles.ts';
import { isTemporaryFile, probeFile } from './layout.ts';
import { unfinishedIn, type UnfinishedEntry } from './unfinished.ts';

/** Space on a repository's file system. */
export interface Space {
  readonly sizeBytes: number;
  /** For this process: without what the file system reserves for others. */
  readonly freeBytes: number;
  readonly usedBytes: number;
}

/** What can be done on a repository. Paths are relative to it. Runs in the helper process only. */
export interface Operations {
  /** Proves that the directory is there and that files can be made in it. */
  probe(): Promise<Space>;
  /**
   * Proves that the directory is the repository, and writes nothing: what is read or removed must not need space, or a
   * file system that can be written to.
   */
  recognize(): Promise<void>;
  /** Asks the server for its space, a question that nobody answers from memory. */
  answers(): Promise<Space>;
  /** Does what probe does, then reads the repository's id, which is made when there is none. */
  prepare(): Promise<{ readonly repositoryId: string }>;
  /** Makes a folder and those above it. */
  makeFolder(path: string): Promise<void>;
  /**
   * Makes an empty file, which must not be there, and keeps it open until syncFile: only a descriptor that was open
   * while others wrote gets to hear of writes that were lost (fsync(2), NFS close-to-open).
   */
  createFile(path: string): Promise<void>;
  /** Flushes a file made by createFile to stable storage, closes it and returns its length. */
  syncFile(path: string): Promise<{ readonly bytes: number }>;
  /** Writes a whole file durably; replaces one that is there in one step. */
  writeFile(path: string, content: Uint8Array): Promise<void>;
  /** Reads a whole file of at most `maxBytes`; undefined when there is none. */
  readFile(path: string, maxBytes: number): Promise<Uint8Array | undefined>;
  /** The files of backups that any of the zone keys opens, `limit` at most, and with `zoneKeys` those of the zones' keys. */
  findKeyFiles(keyIds: readonly string[], limit: number, zoneKeys: boolean): Promise<FoundKeyFiles>;
  /** Takes note of the epoch of a controller that writes key files; returns the newest one, which may be another. */
  acceptKeyEpoch(epoch: number): Promise<number>;
  /**
   * Writes files with backups' keys in the place of all others of their folders, for as long as no newer epoch is known.
   * Returns the folders that are not there.
   */
  writeBackupKeyFiles(files: readonly BackupKeyFile[], epoch: number): Promise<readonly string[]>;
  /** Removes the file of a zone's key; none there is none. */
  removeZoneKeyFile(keyId: string): Promise<void>;
  /** A file's length in bytes; undefined when there is none. */
  fileBytes(path: string): Promise<number | undefined>;
  /** SHA-256 of a part of a file, in hexadecimal, which is read from memory where it is there. */
  digestPart(path: string, offset: number, bytes: number): Promise<string>;
  /** Drops what the kernel keeps in memory of the files in a folder, so that what is read next comes from the storage. */
  dropCache(path: string): Promise<void>;
  /** The names of the folders in a folder; undefined when it is not there. */
  foldersIn(path: string): Promise<readonly string[] | undefined>;
  /** The names of the regular files in a folder; undefined when it is not there. */
  filesIn(path: string): Promise<readonly string[] | undefined>;
  /** Whether a folder is there. */
  hasFolder(path: string): Promise<boolean>;
  /** Makes a folder's entries durable. */
  syncFolder(path: string): Promise<void>;
  /** Renames a folder durably; done already is done. */
  renameFolder(from: string, to: string): Promise<void>;
  /** The folders and files that are not, or no longer, under their final names. */
  unfinished(): Promise<readonly UnfinishedEntry[]>;
  /** Removes a file that `unfinished` lists; one that is gone is no error. */
  removeTemporary(path: string): Promise<void>;
  /** Removes a folder with all in it and returns what that freed; none there is none. */
  removeFolder(path: string): Promise<{ readonly freedBytes: number }>;
}

const READ_BYTES = 1_048_576;
const DROP_DEADLINE_MS = 600_000;

/** More than a file system keeps in the inode itself. */
const PROBE_BYTES = 65_536;

/**
 * The operations on the directory `root`.
 *
 * @param repositoryId what its id file must say; empty: not compared
 */
export function operationsOn(root: string, repositoryId: string): Operations {
  const held = new Map<string, FileHandle>();

  const at = (path: string): string => {
    const clean = normalize(path);
    if (clean.startsWith('..') || clean.startsWith(sep))
      throw new Error(`${path} leads out of the repository`);
    return join(root, clean);
  };

  const probe = async (): Promise<Space> => {
    if (repositoryId !== '') await requireRepositoryId(root, repositoryId);
    const path = join(root, probeFile(randomUUID()));
    const file = await open(path, 'wx', 0o600);
    try {
      // An empty file can be made on a full file system.
      await file.writeFile(Buffer.alloc(PROBE_BYTES, 'holdfast'));
      await file.sync();
    } finally {
      await file.close();
      await unlink(path);
    }
    return space();
  };
  const space = async (): Promise<Space> => {
    const { bsize, blocks, bfree, bavail } = await statfs(root);
    return { sizeBytes: bsize * blocks, freeBytes: bsize * bavail, usedBytes: bsize * (blocks - bfree) };
  };

  const filesIn = async (path: string): Promise<readonly string[] | undefined> =>
    (await readdir(at(path), { withFileTypes: true }).catch(ifMissing))
      ?.filter((entry) => entry.isFile())
      .map(({ name }) => name);

  return {
    probe,
    recognize: async () => {
      await stat(root);
      if (repositoryId !== '') await requireRepositoryId(root, repositoryId);
    },
    answers: space,
    prepare: async () => {
      await probe();
      return { repositoryId: await takeRepositoryId(root) };
    },
    makeFolder: async (path) => {
      await mkdir(at(path), { recursive: true, mode: 0o700 });
      await syncFolder(dirname(at(path)));
    },
    createFile: async (path) => {
      held.set(path, await open(at(path), 'wx', 0o600));
    },
    syncFile: async (path) => {
      const file = held.get(path);
      if (file === undefined) throw new Error(`${path} is not open`);
      held.delete(path);
      try {
        await file.sync();
        return { bytes: (await file.stat()).size };
      } finally {
        await file.close();
      }
    },
    writeFile: (path, content) => replaceFile(at(path), content),
    readFile: async (path, maxBytes) => {
      const file = await open(at(path), 'r').catch(ifMissing);
      if (file === undefined) return undefined;
      try {
        if ((await file.stat()).size > maxBytes) throw new Error(`${path} is longer than ${maxBytes} bytes`);
        return await file.readFile();
      } finally {
        await file.close();
      }
    },
    findKeyFiles: async (keyIds, limit, zoneKeys) => ({
      ...(await findBackupKeyFiles(root, keyIds, limit)),
      zoneKeys: zoneKeys ? await findZoneKeyFiles(root) : [],
    }),
    acceptKeyEpoch: (epoch) => acceptKeyEpoch(root, epoch),
    writeBackupKeyFiles: async (files, epoch) => {
      for (const { path } of files) at(path);
      return writeBackupKeyFiles(root, files, () => requireKeyEpoch(root, epoch));
    },
    removeZoneKeyFile: (keyId) => removeZoneKeyFile(root, keyId),
    fileBytes: async (path) => (await stat(at(path)).catch(ifMissing))?.size,
    digestPart: async (path, offset, bytes) => {
      const file = await open(at(path), 'r');
      try {
        const hash = createHash('sha256');
        const piece = Buffer.alloc(Math.min(bytes, READ_BYTES));
        for (let done = 0; done < bytes;) {
          const { bytesRead } = await file.read(
            piece,
            0,
            Math.min(piece.length, bytes - done),
            offset + done,
          );
          if (bytesRead === 0) throw new Error(`${path} ends before ${offset + bytes} bytes`);
          hash.update(piece.subarray(0, bytesRead));
          done += bytesRead;
        }
        return hash.digest('hex');
      } finally {
        await file.close();
      }
    },
    dropCache: async (path) => {
      for (const name of (await filesIn(path)) ?? []) {
        // dd(1): "oflag=nocache / iflag=nocache with count=0: request to drop cache for the whole file" (posix_fadvise).
        const args = [`if=${join(at(path), name)}`, 'iflag=nocache', 'count=0', 'status=none'];
        const result = await run('dd', args, { deadlineMs: DROP_DEADLINE_MS });
        if (result.exitCode !== 0) throw new Error(`dd: ${result.stderr.trim()}`);
      }
    },
    foldersIn: async (path) =>
      (await readdir(at(path), { withFileTypes: true }).catch(ifMissing))
        ?.filter((entry) => entry.isDirectory())
        .map(({ name }) => name),
    filesIn,
    hasFolder: async (path) => (await stat(at(path)).catch(ifMissing))?.isDirectory() ?? false,
    syncFolder: (path) => syncFolder(at(path)),
    renameFolder: async (from, to) => {
      await rename(at(from), at(to)).catch(async (error: unknown) => {
        // On NFS a rename whose answer was lost is sent again and then finds nothing: look before deciding.
        const done =
          (await stat(at(from)).catch(ifMissing)) === undefined &&
          (await stat(at(to)).catch(ifMissing)) !== undefined;
        if (!done) throw error;
      });
      await syncFolder(dirname(at(to)));
    },
    unfinished: () => unfinishedIn(root),
    removeTemporary: async (path) => {
      if (!isTemporaryFile(path)) throw new Error(`${path} is no temporary file`);
      await unlink(at(path)).catch(ifMissing);
    },
    removeFolder: async (path) => {
      if (at(path) === at('.')) throw new Error('the repository itself is not removed');
      const names = await readdir(at(path)).catch(ifMissing);
      if (names === undefined) return { freedBytes: 0 };
      const blocks = await Promise.all(names.map(async (name) => (await lstat(join(at(path), name))).blocks));
      await rm(at(path), { recursive: true });
      await syncFolder(dirname(at(path)));
      // stat(2): st_blocks counts 512-byte units, whatever the file system's block size.
      return { freedBytes: blocks.reduce((sum, count) => sum + count * 512, 0) };
    },
  };
}

function ifMissing(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  return undefined;
}

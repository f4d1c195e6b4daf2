import { access, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';

/** The kernel's end of a FUSE mount. Neither call asks the daemon that serves it. */
export interface FuseConnection {
  /** How many answers the daemon owes at the moment. */
  waiting(): Promise<number>;
  /** Lets everything that waits for the daemon fail, at once and for ever. */
  abort(): Promise<void>;
}

/** Linux, Documentation/filesystems/fuse.rst, "The control filesystem". */
const CONNECTIONS = '/sys/fs/fuse/connections';

/**
 * The connection of a mounted FUSE file system.
 *
 * @param device of the mount, such as `0:44`
 * @throws HoldfastError PUSH_UNUSABLE when the control file system is not mounted
 */
export async function fuseConnection(device: string): Promise<FuseConnection> {
  const directory = join(CONNECTIONS, device.split(':')[1] ?? '');
  await access(join(directory, 'waiting')).catch(() => {
    throw new HoldfastError(
      'PUSH_UNUSABLE',
      `The control file system of FUSE is not mounted, without which a push backup cannot be watched. Mount it: ` +
        `mount -t fusectl fusectl ${CONNECTIONS}`,
    );
  });
  return {
    // Gone with its mount.
    waiting: async () => Number(await readFile(join(directory, 'waiting'), 'utf8').catch(() => '0')),
    abort: async () => {
      await writeFile(join(directory, 'abort'), '1').catch(() => undefined);
    },
  };
}

import { existsSync } from 'node:fs';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { silentLogger } from '@holdfast/common/logger.ts';
import { connectQmp } from '../../../agent/src/qemu/qmp.ts';
import type { Lab } from '../../lab/lab.ts';

/**
 * A `qemu-img` and a `qemu-storage-daemon` that are found before the real ones and are them, but for two things. Told
 * to, `qemu-img` overwrites the refcount table of the image first that it shall check, so that an image is damaged after
 * it was written and before it is looked at, which no disk here does by itself. The daemon has a second monitor, since
 * the first one talks to its runner alone.
 */
export interface QemuPrograms {
  /** The PATH of an agent that finds them. */
  readonly path: string;
  /** Damages every image that is checked while `work` goes on. */
  damaging<Result>(work: () => Promise<Result>): Promise<Result>;
  /** A property of an object of the one daemon that runs, as QEMU itself holds it (qom-get). */
  property(object: string, property: string): Promise<unknown>;
}

/** Makes them in a directory of the lab, which goes with the lab. */
export async function qemuPrograms(lab: Lab): Promise<QemuPrograms> {
  const directory = path.join(lab.directory, 'bin');
  const monitors = path.join(lab.directory, 'monitors');
  const sign = path.join(directory, 'damage');
  await mkdir(directory);
  await mkdir(monitors, { mode: 0o700 });
  await writeFile(
    path.join(directory, 'qemu-img'),
    `#!/bin/sh
if [ "$1" = check ] && [ -e '${sign}' ]; then
  for last; do :; done
  image=$(printf %s "$last" | sed 's/.*"filename":"\\([^"]*\\)".*/\\1/')
  head -c 4096 /dev/zero | tr '\\0' '\\377' | dd of="$image" bs=4096 seek=16 conv=notrunc status=none
fi
exec /usr/bin/qemu-img "$@"
`,
    { mode: 0o755 },
  );
  await writeFile(
    path.join(directory, 'qemu-storage-daemon'),
    `#!/bin/sh
exec /usr/bin/qemu-storage-daemon "$@" \\
  --chardev "socket,id=second,path=${monitors}/$$,server=on,wait=off" --monitor chardev=second
`,
    { mode: 0o755 },
  );
  return {
    path: `${directory}:${process.env['PATH'] ?? ''}`,
    damaging: async (work) => {
      await writeFile(sign, '');
      try {
        return await work();
      } finally {
        await rm(sign);
      }
    },
    property: async (object, property) => {
      const running = (await readdir(monitors)).filter((pid) => existsSync(`/proc/${pid}`));
      const [only = ''] = running;
      if (running.length !== 1) throw new Error(`${running.length} storage daemons run, and not one.`);
      const socket = path.join(monitors, only);
      const qmp = await connectQmp(socket, silentLogger, AbortSignal.timeout(10_000));
      try {
        return await qmp.execute('qom-get', { path: `/objects/${object}`, property });
      } finally {
        qmp.close();
      }
    },
  };
}

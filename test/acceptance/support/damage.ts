import { chmod, mkdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

/**
 * A `qemu-img` that is found before the real one and is it, but for one thing: told to, it overwrites the refcount table of
 * the image first that it shall check. So an image is damaged after it was written and before it is looked at, which no disk
 * here does by itself.
 */
export interface DamagingQemuImg {
  /** For the PATH of an agent. */
  readonly directory: string;
  /** Damages every image that is checked while `work` goes on. */
  damaging<Result>(work: () => Promise<Result>): Promise<Result>;
  create(): Promise<void>;
  remove(): Promise<void>;
}

export function damagingQemuImg(): DamagingQemuImg {
  const directory = path.join(tmpdir(), `holdfast-damage-${process.pid}`);
  const sign = path.join(directory, 'damage');
  const script = `#!/bin/sh
if [ "$1" = check ] && [ -e '${sign}' ]; then
  for last; do :; done
  image=$(printf %s "$last" | sed 's/.*"filename":"\\([^"]*\\)".*/\\1/')
  head -c 4096 /dev/zero | tr '\\0' '\\377' | dd of="$image" bs=4096 seek=16 conv=notrunc status=none
fi
exec /usr/bin/qemu-img "$@"
`;
  return {
    directory,
    damaging: async (work) => {
      await writeFile(sign, '');
      try {
        return await work();
      } finally {
        await rm(sign);
      }
    },
    create: async () => {
      await rm(directory, { recursive: true, force: true });
      await mkdir(directory);
      await writeFile(path.join(directory, 'qemu-img'), script);
      await chmod(path.join(directory, 'qemu-img'), 0o755);
    },
    remove: () => rm(directory, { recursive: true, force: true }),
  };
}

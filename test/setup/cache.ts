import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';

/** Where downloads and built images are kept between runs: `.cache/lab` at the top of the checkout (ignored by git). */
export const cacheDirectory = path.resolve(import.meta.dirname, '../../.cache/lab');

/**
 * The path of a cached entry (a file or a directory), made on first use.
 *
 * `build` gets a path that does not exist yet, in a directory of its own on the same file system, and makes the
 * entry there; one rename then makes it visible. So an interrupted build leaves no half entry, and of two builds
 * by two processes at the same time one wins and the other is thrown away.
 */
export function cached(name: string, build: (target: string) => Promise<void>): Promise<string> {
  const building = underWay.get(name) ?? made(name, build).finally(() => underWay.delete(name));
  underWay.set(name, building);
  return building;
}

/** What this process builds already: whoever asks meanwhile waits for it. */
const underWay = new Map<string, Promise<string>>();

async function made(name: string, build: (target: string) => Promise<void>): Promise<string> {
  const entry = path.join(cacheDirectory, name);
  if (await exists(entry)) return entry;
  await mkdir(cacheDirectory, { recursive: true });
  await removeAbandoned();
  const workshop = await mkdtemp(path.join(cacheDirectory, `building-${process.pid}-`));
  try {
    const target = path.join(workshop, 'entry');
    await build(target);
    await rename(target, entry).catch(async (error: unknown) => {
      if (!(await exists(entry))) throw error;
    });
  } finally {
    await rm(workshop, { recursive: true, force: true });
  }
  return entry;
}

/** Takes away what builds left that were killed. */
async function removeAbandoned(): Promise<void> {
  for (const name of await readdir(cacheDirectory)) {
    const pid = /^building-(\d+)-/.exec(name)?.[1];
    if (pid !== undefined && !(await exists(`/proc/${pid}`))) {
      await rm(path.join(cacheDirectory, name), { recursive: true, force: true });
    }
  }
}

async function exists(file: string): Promise<boolean> {
  return access(file).then(
    () => true,
    () => false,
  );
}

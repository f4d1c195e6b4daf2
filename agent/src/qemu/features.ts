import { access } from 'node:fs/promises';
import { run } from '../process/run.ts';

const DEADLINE_MS = 10_000;
/** Where mount(8) looks for its helpers. */
const HELPER_DIRECTORIES = ['/sbin', '/usr/sbin'];

/**
 * What this host can take part in: `push` (FUSE), `source.rbd` (QEMU's driver), and `repository.nfs`, `repository.cifs` and
 * `repository.ceph` (what mounts them).
 */
export async function hostFeatures(): Promise<string[]> {
  const found = await Promise.all([
    has('push', exists('/dev/fuse')),
    has('source.rbd', readsRbd()),
    has('repository.nfs', hasMountHelper('mount.nfs')),
    has('repository.cifs', hasMountHelper('mount.cifs')),
    has('repository.ceph', hasMountHelper('mount.ceph'), exists('/usr/bin/ceph-fuse')),
  ]);
  return found.filter((feature) => feature !== '');
}

async function has(feature: string, ...means: readonly Promise<boolean>[]): Promise<string> {
  return (await Promise.all(means)).some((each) => each) ? feature : '';
}

function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function hasMountHelper(name: string): Promise<boolean> {
  const found = await Promise.all(HELPER_DIRECTORIES.map((directory) => exists(`${directory}/${name}`)));
  return found.includes(true);
}

async function readsRbd(): Promise<boolean> {
  const { stdout } = await run('qemu-img', ['--help'], { deadlineMs: DEADLINE_MS });
  return /^Supported formats:.* rbd( |$)/m.test(stdout);
}

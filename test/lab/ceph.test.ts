import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { processesNaming } from '../harness/leftovers.ts';
import { startCeph } from './ceph.ts';
import { until } from './deadline.ts';

const DEADLINE = { timeout: 60_000, reject: false } as const;

describe('Ceph lab', () => {
  it('keeps RBD images and files, knows its users, and leaves nothing behind', async () => {
    await using ceph = await startCeph();
    const { directory } = ceph;
    const source = path.join(directory, 'source');
    await writeFile(source, Buffer.alloc(5_000_000, 'what an image holds '));
    await ceph.rbd(['import', source, `${ceph.pool}/image`]);
    const capabilities = ['mon', 'profile rbd', 'osd', `profile rbd-read-only pool=${ceph.pool}`];
    const { key, keyringPath } = await ceph.makeUser('client.reader', capabilities);
    assert.ok((await readFile(keyringPath, 'utf8')).includes(key));
    const asReader = ['--conf', ceph.confPath, '--id', 'reader', '--keyring', keyringPath];
    const copy = path.join(directory, 'copy');
    await execa('rbd', [...asReader, 'export', `${ceph.pool}/image`, copy], { timeout: 60_000 });
    assert.ok((await readFile(copy)).equals(await readFile(source)));
    const removal = await execa('rbd', [...asReader, 'rm', `${ceph.pool}/image`], DEADLINE);
    assert.match(removal.stderr, /Operation not permitted/);

    const mount = path.join(directory, 'mount');
    await mkdir(mount);
    await execa('ceph-fuse', ['--conf', ceph.confPath, '--id', 'admin', mount], { timeout: 60_000 });
    await writeFile(path.join(mount, 'file'), 'in CephFS');
    assert.equal(await readFile(path.join(mount, 'file'), 'utf8'), 'in CephFS');
    await rm(path.join(mount, 'file'));
    // A client whose servers have gone waits half a minute for them, also after its umount.
    ceph.pause();
    await execa('umount', ['--lazy', mount], { timeout: 60_000 });
    assert.ok((await remains(directory)).some((each) => each.startsWith('ceph-fuse ')));
    await ceph[Symbol.asyncDispose]();
    assert.deepEqual(await remains(directory), []);
  });

  it('ends with its owner, even by SIGKILL', async () => {
    const module = JSON.stringify(path.join(import.meta.dirname, 'ceph.ts'));
    const script = `const { startCeph } = await import(${module});
      console.log((await startCeph()).directory);
      setInterval(() => undefined, 1000);`;
    const owner = execa(process.execPath, ['--input-type=module', '-e', script], { reject: false });
    const [line] = (await once(owner.stdout, 'data', { signal: AbortSignal.timeout(90_000) })) as [Buffer];
    const directory = line.toString().trim();
    assert.ok(existsSync(path.join(directory, 'ceph.conf')), directory);
    owner.kill('SIGKILL');
    let left: string[] = [];
    await until(
      () => `Nothing is left of the lab; left are ${left.join('; ')}`,
      20_000,
      async () => {
        left = await remains(directory);
        return left.length === 0 ? true : undefined;
      },
    );
  });
});

/** Processes that name the lab in their arguments, and its directory. */
async function remains(directory: string): Promise<string[]> {
  const processes = (await processesNaming(directory)).map(({ argv }) => argv.join(' '));
  return [...processes, ...(existsSync(directory) ? [directory] : [])];
}

import assert from 'node:assert/strict';
import { chmod, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { mountPlan } from './mount.ts';
import { placeAt, type MountPlace } from './place.ts';
import type { MountSource } from './plan.ts';

const PASSWORD = `p, "w' =\\ö %s $HOME`;
const nfs: MountSource = {
  type: RepositoryType.REPOSITORY_TYPE_NFS,
  path: '',
  address: `nas:/sp ace, "quo'te" \\`,
  mountOptions: [],
};
const cifs: MountSource = {
  type: RepositoryType.REPOSITORY_TYPE_CIFS,
  path: '',
  address: `//nas/my 'share'`,
  mountOptions: [],
  credentials: { username: `o'neil`, password: PASSWORD, domain: 'WORK' },
};

/** What the programs are called with; the real ones are met by the labs. */
describe('the ways of mounting', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let place: MountPlace;
  let path: string | undefined;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    place = placeAt(join(directory.path, 'place'));
    await mkdir(place.directory);
    path = process.env['PATH'];
    process.env['PATH'] = `${directory.path}:${path ?? ''}`;
    await program('');
  });
  afterEach(async () => {
    process.env['PATH'] = path;
    await directory[Symbol.asyncDispose]();
  });

  /** A mount(8) that writes down its arguments, a line each, and then does something. */
  async function program(then: string): Promise<void> {
    const file = join(directory.path, 'mount');
    await writeFile(file, `#!/bin/sh\nprintf '%s\\n' "$@" >> '${directory.path}/called'\n${then}\n`);
    await chmod(file, 0o755);
  }
  async function called(): Promise<readonly string[]> {
    return (await readFile(join(directory.path, 'called'), 'utf8')).split('\n').slice(0, -1);
  }
  async function optionsOf(source: MountSource): Promise<readonly string[]> {
    const result = await mountPlan(source).mount(place);
    assert.equal(result.exitCode, 0, result.stderr);
    return (await called())[3]?.split(',') ?? [];
  }

  it('give the address as it is, and nothing that could be run from it', async () => {
    const options = await optionsOf(nfs);
    const [flag, type, , , ...rest] = await called();
    assert.deepEqual([flag, type, ...rest], ['-t', 'nfs', '--', nfs.address, place.point]);
    for (const option of ['rw', 'nosuid', 'nodev', 'noexec', 'hard', 'vers=4.2', 'retry=0']) {
      assert.ok(options.includes(option), option);
    }
  });

  it('let an option that was given take the place of the default, and of its opposite', async () => {
    const options = await optionsOf({ ...nfs, mountOptions: ['soft', 'timeo=100', 'nfsvers=3', 'relatime'] });
    assert.deepEqual(options.slice(-4), ['soft', 'timeo=100', 'nfsvers=3', 'relatime']);
    for (const gone of ['hard', 'timeo=600', 'vers=4.2', 'noatime']) assert.ok(!options.includes(gone), gone);
  });

  it('try NFS 4.1 when the server does not have 4.2, and only then', async () => {
    await program('case "$*" in *vers=4.2*) echo "mount.nfs: Protocol not supported" >&2; exit 32;; esac');
    assert.equal((await mountPlan(nfs).mount(place)).exitCode, 0);
    assert.ok((await called()).some((line) => line.includes('vers=4.1')));
    await program('echo "mount.nfs: access denied by server" >&2; exit 32');
    await writeFile(join(directory.path, 'called'), '');
    assert.equal((await mountPlan(nfs).mount(place)).exitCode, 32);
    assert.ok(!(await called()).some((line) => line.includes('vers=4.1')));
  });

  it('give a password through a pipe, byte for byte, and in no argument', async () => {
    await program(`cat "\${4##*credentials=}" > '${directory.path}/read'`);
    const options = await optionsOf(cifs);
    const read = await readFile(join(directory.path, 'read'), 'utf8');
    assert.equal(read, `username=o'neil\npassword=${PASSWORD}\ndomain=WORK\n`);
    assert.ok(!(await called()).join('\n').includes(PASSWORD));
    assert.ok(options.includes('vers=3') && options.includes('dir_mode=0700') && !options.includes('guest'));
    assert.deepEqual(await readdir(place.directory), []);
  });

  it('do not even try with a password that was left out of a journal', async () => {
    const user = { username: 'backup', password: '', domain: '' };
    for (const type of [RepositoryType.REPOSITORY_TYPE_CIFS, RepositoryType.REPOSITORY_TYPE_CEPH]) {
      const plan = mountPlan({ ...cifs, type, credentials: user });
      await assert.rejects(plan.mount(place), { reason: 'MOUNT_FAILED', message: /not known/ });
    }
  });

  it('ask as guest without credentials, unless there is a ticket', async () => {
    assert.ok((await optionsOf({ ...cifs, credentials: undefined })).includes('guest'));
    await writeFile(join(directory.path, 'called'), '');
    const ticket = { ...cifs, credentials: undefined, mountOptions: ['sec=krb5'] };
    assert.ok(!(await optionsOf(ticket)).includes('guest'));
  });
});

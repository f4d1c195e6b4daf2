import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { failed, succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import { RepositoryState } from '@holdfast/proto/holdfast/v1/repository.ts';
import { MiB } from '../lab/spec.ts';
import { MINUTE, useNas } from '../e2e/support/nas.ts';
import { controllerEnvironment, pageOf } from '../e2e/support/page.ts';

/** Short, so that a hang can outlast it. */
const LEASE_SECONDS = 15;
const STALLED = RepositoryState.REPOSITORY_STATE_STALLED;

/** What takes an emulated host more than the time that `make test` has. */
describe('faults of real NFS and CIFS servers', () => {
  const nas = useNas({
    domains: [{ name: 'one' }, { name: 'two' }],
    sizeMiB: 16,
    leaseSeconds: LEASE_SECONDS,
  });
  /** So that there is time to do something in the middle. */
  const slow = { 'nas.backup.bandwidth.limit.mbps': '1' };

  /** Waits until a repository that did not answer does so again. */
  const answersAgain = (name: string): Promise<true> =>
    until('The repository answers again', 3 * MINUTE, async () => {
      const { sizeBytes } = await nas.space(name);
      return sizeBytes > 0n ? true : undefined;
    });
  const isStalled = (name: string): Promise<true> =>
    until('The repository is stalled', MINUTE, async () => {
      const { repository } = await nas.space(name);
      return repository?.health.some(({ state }) => state === STALLED) ? true : undefined;
    });

  it('more that cannot be used is refused before anything is touched', async () => {
    const { cifs, mounts, nfs, refused } = nas;
    await refused(nfs('/squashed'), 'REPOSITORY_UNUSABLE', /permission|cannot be written/i);
    await refused({ ...nfs('/backups'), mountOptions: ['port=9'] }, 'REPOSITORY_STALLED', /refused/i);
    await refused(cifs('//10.0.2.2/nowhere'), 'MOUNT_FAILED', /No such file/i);
    await refused(cifs('//10.0.2.2/readonly'), 'REPOSITORY_UNUSABLE', /cannot be written/i);
    assert.doesNotMatch(await mounts(), /private-/);
  });

  it('are added as the page says', async () => {
    const { ganesha, holdfast, host, samba } = nas;
    const file = path.join(holdfast.directory, 'password');
    await writeFile(file, samba.password, { mode: 0o600 });
    const page = await pageOf('docs/repositories.md');
    const words = {
      home: host.zone,
      'nas:/export/backups': `10.0.2.2:/backups --option port=${ganesha.port}`,
      [String.raw`'\\nas\backups'`]: String.raw`'\\10.0.2.2\backups' --option port=${samba.port}`,
      '--username backup': `--username ${samba.username}`,
      FILE: file,
      'add nas': 'add nas-of-the-page',
    };
    const { exitCode, stdout, stderr } = await page.command(
      /--type cifs/,
      words,
      controllerEnvironment(holdfast),
    );
    assert.equal(exitCode, 0, `${stdout}${stderr}`);
  });

  it('backups to both are verified and restored', async () => {
    const { backup, nothingLeft, proveRestored } = nas;
    const both = [
      ['nfs', 'one'],
      ['cifs', 'two'],
    ] as const;
    for (const [repository, domain] of both)
      await proveRestored(domain, succeeded(await backup(repository, domain)));
    await nothingLeft();
  });

  it('another password is taken once the host has proved it, and a backup that runs under the old one goes on', async () => {
    const { backup, holdfast, nothingLeft, proveStored, samba } = nas;
    const { client } = holdfast;
    const setCredentials = (password: string) =>
      client.call(client.repositories.setRepositoryCredentials.bind(client.repositories), {
        name: 'cifs',
        credentials: { username: samba.username, password, domain: '' },
      });
    const running = await backup('cifs', 'one', slow, async () => {
      await samba.setPassword('quite another');
      await assert.rejects(setCredentials('quite wrong'), { reason: 'MOUNT_FAILED' });
      await setCredentials('quite another');
    });
    await proveStored(samba, 'one', succeeded(running));
    await nothingLeft();
    await proveStored(samba, 'one', succeeded(await backup('cifs', 'one')));
    await samba.setPassword(samba.password);
    await setCredentials(samba.password);
    await proveStored(samba, 'one', succeeded(await backup('cifs', 'one')));
    await nothingLeft();
  });

  it('NFS hangs for longer than its lease, and a backup to CIFS is taken meanwhile', async () => {
    const { backup, ganesha, nothingLeft, proveStored, samba, space } = nas;
    let hungMs = 0;
    const followed = await backup('nfs', 'one', slow, async () => {
      // A repository that has answered before is waited for no longer than for one call.
      await space('nfs');
      const startMs = performance.now();
      await ganesha.hang();
      try {
        const toCifs = backup('cifs', 'two');
        await isStalled('nfs');
        await proveStored(samba, 'two', succeeded(await toCifs));
      } finally {
        await ganesha.resume();
        hungMs = performance.now() - startMs;
      }
      await answersAgain('nfs');
    });
    assert.ok(hungMs > LEASE_SECONDS * 1_000);
    await proveStored(ganesha, 'one', succeeded(followed));
    await nothingLeft();
  });

  it('the NFS server is gone for a moment, and the backup goes on', async () => {
    const { backup, ganesha, nothingLeft, proveStored } = nas;
    const followed = await backup('nfs', 'one', slow, async () => {
      await ganesha.kill();
      await ganesha.start();
    });
    await proveStored(ganesha, 'one', succeeded(followed));
    await nothingLeft();
  });

  it('CIFS hangs for a moment, and the backup goes on', async () => {
    const { backup, nothingLeft, proveStored, samba, space } = nas;
    const followed = await backup('cifs', 'two', slow, async () => {
      await space('cifs');
      await samba.hang();
      try {
        await isStalled('cifs');
      } finally {
        await samba.resume();
      }
      await answersAgain('cifs');
    });
    await proveStored(samba, 'two', succeeded(followed));
    await nothingLeft();
  });

  it('the CIFS server is gone for a moment: the backup goes on or fails with that reason, and the next one works', async () => {
    const { backup, nothingLeft, proveStored, samba } = nas;
    const followed = await backup('cifs', 'two', slow, async () => {
      await samba.kill();
      await samba.start();
    });
    // Whether Linux opens a file again that the server forgot is its own affair.
    if (followed.operation.error === undefined) await proveStored(samba, 'two', succeeded(followed));
    else assert.match(failed(followed).reason, /^REPOSITORY_(FAILED|STALLED)$/);
    await nothingLeft();
    await proveStored(samba, 'two', succeeded(await backup('cifs', 'two')));
  });

  const servers = [
    ['nfs', 'one', () => nas.ganesha],
    ['cifs', 'two', () => nas.samba],
  ] as const;
  for (const [name, domain, server] of servers) {
    it(`a full export is refused, and ends a backup that runs, with that reason, and nothing is left: ${name}`, async () => {
      const { backup, nothingLeft, proveStored } = nas;
      const files = path.join(server().files, 'backups');
      const before = await readdir(files, { recursive: true });
      const full = async (ask: () => ReturnType<typeof backup>): Promise<void> => {
        const error = failed(await ask());
        assert.equal(error.reason, 'REPOSITORY_FULL', error.message);
        await nothingLeft();
        assert.deepEqual(await readdir(files, { recursive: true }), before);
      };
      await full(() => backup(name, domain, slow, () => server().fill(MiB)));
      await full(() => backup(name, domain));
      await server().free();
      await proveStored(server(), domain, succeeded(await backup(name, domain)));
    });
  }

  for (const [name, domain, server] of servers) {
    it(`another file system in the place of the export, whose handles are stale, fails the backup, and is refused from then on: ${name}`, async () => {
      const { backup, nothingLeft, space } = nas;
      const error = failed(await backup(name, domain, slow, () => server().replaceFiles()));
      assert.match(error.reason, /^REPOSITORY_/, error.message);
      await nothingLeft();
      await assert.rejects(space(name), { reason: 'REPOSITORY_MISMATCH' });
      assert.deepEqual(await readdir(path.join(server().files, 'backups')), []);
      await nothingLeft();
    });
  }
});

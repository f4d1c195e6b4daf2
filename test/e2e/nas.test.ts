import assert from 'node:assert/strict';
import { succeeded } from '../harness/follow.ts';
import { useNas } from './support/nas.ts';

/** One boot for all of it: an emulated host takes its time. More of it is in test/e2e-long/nas.test.ts. */
describe('repositories on real NFS and CIFS servers, mounted by an agent under AppArmor', () => {
  const nas = useNas({
    domains: [{ name: 'stopped' }, { name: 'pulled', start: true }, { name: 'pushed', start: true }],
    sizeMiB: 4,
  });

  it('what cannot be used is refused before anything is touched', async () => {
    const { cifs, mounts, nfs, refused, samba } = nas;
    const password = `${samba.password}?`;
    const wrong = { ...cifs('//10.0.2.2/backups'), credentials: { username: 'nas', password, domain: '' } };
    await Promise.all([
      refused(nfs('/nowhere'), 'MOUNT_FAILED', /No such file/i),
      refused(nfs('/readonly'), 'REPOSITORY_UNUSABLE', /read-only|cannot be written/i),
      refused({ ...nfs('/backups'), mountOptions: ['exec'] }, 'INVALID_REQUEST', /exec/),
      refused(wrong, 'MOUNT_FAILED', /Permission denied/i),
    ]);
    assert.doesNotMatch(await mounts(), /private-/);
  });

  it('domains are backed up to them, a stopped one, a running one by pull and one by push, and nothing is denied', async () => {
    const { backup, ganesha, host, mounts, nothingLeft, samba } = nas;
    const { passwordIsHidden, proveStored, requireConfined, transportOf } = nas;
    await requireConfined(2);
    const stopped = async (): Promise<void> => {
      const checked = { 'nas.backup.integrity.check': 'true' };
      const followed = await backup('nfs', 'stopped', checked, async () => {
        assert.match(await mounts(), / nfs4 rw,nosuid,nodev,noexec,.*vers=4\.2,.*hard/);
      });
      await proveStored(ganesha, 'stopped', succeeded(followed));
    };
    const pulled = async (): Promise<void> => {
      const followed = await backup('cifs', 'pulled', { 'nas.backup.transport': 'pull' }, passwordIsHidden);
      await proveStored(samba, 'pulled', succeeded(followed));
      assert.equal(await transportOf(followed), 'pull');
    };
    const pushed = async (): Promise<void> => {
      const followed = await backup('nfs', 'pushed', { 'nas.backup.transport': 'push' });
      await proveStored(ganesha, 'pushed', succeeded(followed));
      assert.equal(await transportOf(followed), 'push');
    };
    // An emulated host that works on one of them answers a controller too late that starts another.
    for (const taken of [stopped, pulled, pushed]) await taken();
    await requireConfined(2);
    assert.ok(!(await host.logs()).includes(samba.password));
    await nothingLeft();
  });
});

import assert from 'node:assert/strict';
import { succeeded } from '../harness/follow.ts';
import { useNas } from './support/nas.ts';

/** One boot for all of it: an emulated host takes its time. Running domains and faults are in test/e2e-long. */
describe('repositories on real NFS and CIFS servers, mounted by an agent under AppArmor', () => {
  const nas = useNas({ domains: [{ name: 'one' }], sizeMiB: 4 });

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

  it('a stopped domain is backed up to both, and nothing is denied', async () => {
    const {
      backup,
      ganesha,
      host,
      mounts,
      nothingLeft,
      passwordIsHidden,
      proveStored,
      requireConfined,
      samba,
    } = nas;
    const checked = { 'nas.backup.integrity.check': 'true' };
    const toNfs = await backup('nfs', 'one', checked, async () => {
      assert.match(await mounts(), / nfs4 rw,nosuid,nodev,noexec,.*vers=4\.2,.*hard/);
    });
    await proveStored(ganesha, 'one', succeeded(toNfs));
    await proveStored(samba, 'one', succeeded(await backup('cifs', 'one', {}, passwordIsHidden)));
    await requireConfined(0);
    assert.ok(!(await host.logs()).includes(samba.password));
    await nothingLeft();
  });
});

import assert from 'node:assert/strict';
import { succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import { LEASE_SECONDS } from '../lab/ganesha.ts';
import { DOMAINS, MINUTE, useNas } from '../e2e/support/nas.ts';

/** What takes an emulated host more than the time that `make test` has. */
describe('repositories on real NFS and CIFS servers, mounted by an agent under AppArmor', () => {
  const nas = useNas();

  it('more that cannot be used is refused before anything is touched', async () => {
    const { cifs, nfs, refused } = nas;
    await refused(nfs('/squashed'), 'REPOSITORY_UNUSABLE', /permission|cannot be written/i);
    await refused({ ...nfs('/backups'), mountOptions: ['port=9'] }, 'REPOSITORY_STALLED', /refused/i);
    await refused(cifs('//10.0.2.2/nowhere'), 'MOUNT_FAILED', /No such file/i);
    await refused(cifs('//10.0.2.2/readonly'), 'REPOSITORY_UNUSABLE', /cannot be written/i);
  });

  it('a stopped domain is backed up to NFS, which hangs for longer than its lease, and another one to CIFS meanwhile', async () => {
    const { backup, ganesha, mounts, nothingLeft, proveWhole, samba, space } = nas;
    const toCifs = async (): Promise<void> => {
      const followed = await backup('cifs', 'two');
      await proveWhole(samba, 'two', succeeded(followed));
    };
    const slow = { 'nas.backup.integrity.check': 'true', 'nas.backup.bandwidth.limit.mbps': '1' };
    let hungMs = 0;
    const followed = await backup('nfs', 'one', slow, async () => {
      assert.match(await mounts(), / nfs4 rw,nosuid,nodev,noexec,.*vers=4\.2,.*hard/);
      // A repository that has answered before is waited for no longer than for one call.
      await space('nfs');
      const startMs = performance.now();
      await ganesha.hang();
      try {
        await Promise.all([assert.rejects(space('nfs'), { reason: 'REPOSITORY_STALLED' }), toCifs()]);
      } finally {
        await ganesha.resume();
        hungMs = performance.now() - startMs;
      }
      await until('The repository answers again', MINUTE, () =>
        space('nfs').then(
          () => true,
          () => undefined,
        ),
      );
    });
    assert.ok(hungMs > LEASE_SECONDS * 1_000);
    await proveWhole(ganesha, 'one', succeeded(followed));
    await nothingLeft();
  });

  it('running domains under AppArmor are pulled to NFS and pushed to CIFS', async () => {
    const { backup, holdfast, host, nothingLeft } = nas;
    const { vm } = host;
    await vm.sh(`for name in ${DOMAINS.join(' ')}; do virsh -q start $name; done`, 3 * MINUTE);
    const profiles =
      await vm.sh(`for pid in $(pgrep -x libvirtd) $(pgrep -f '^/usr/bin/qemu-system-x86_64.*guest=');
      do cat /proc/$pid/attr/current; done`);
    assert.match(profiles, /^libvirtd \(enforce\)\n(libvirt-[-0-9a-f]{36} \(enforce\)\n){2}$/);
    await Promise.all(
      (
        [
          ['nfs', 'one', 'pull'],
          ['cifs', 'two', 'push'],
        ] as const
      ).map(async ([repository, domain, transport]) => {
        const followed = await backup(repository, domain, { 'nas.backup.transport': transport });
        const { manifest } = await holdfast.client.getBackup(succeeded(followed).backupId);
        assert.equal(manifest?.transport, transport);
      }),
    );
    assert.equal(await vm.sh('dmesg | grep "apparmor=.DENIED" || true'), '');
    await nothingLeft();
  });
});

import assert from 'node:assert/strict';
import { succeeded } from '../harness/follow.ts';
import { useNas } from '../e2e/support/nas.ts';

/** QEMU is confined to what its domain names: the socket, the scratch images and the FUSE exports of a backup are beyond that. */
describe('running domains under AppArmor, on real NFS and CIFS servers', () => {
  const nas = useNas({
    domains: [
      { name: 'pulled', start: true },
      { name: 'pushed', start: true },
    ],
    sizeMiB: 4,
  });

  for (const [repository, transport] of [
    ['cifs', 'pull'],
    ['nfs', 'push'],
  ] as const) {
    it(`are backed up by ${transport}, and nothing is denied`, async () => {
      const { backup, ganesha, nothingLeft, proveStored, requireConfined, samba, transportOf } = nas;
      await requireConfined(2);
      const followed = await backup(repository, `${transport}ed`, { 'nas.backup.transport': transport });
      await proveStored(repository === 'nfs' ? ganesha : samba, `${transport}ed`, succeeded(followed));
      assert.equal(await transportOf(followed), transport);
      await requireConfined(2);
      await nothingLeft();
    });
  }
});

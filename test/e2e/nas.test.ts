import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  AddRepositoryRequest,
  RepositoryType,
  type Repository,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { succeeded, type Followed } from '../harness/follow.ts';
import { startHoldfast, type Holdfast } from '../harness/holdfast.ts';
import { startMicroHost, type MicroHost } from '../harness/microHost.ts';
import { until } from '../lab/deadline.ts';
import { LEASE_SECONDS, startGanesha } from '../lab/ganesha.ts';
import { startLab, type Lab } from '../lab/lab.ts';
import type { Nas } from '../lab/nas.ts';
import { startSamba, type Samba } from '../lab/samba.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { isStart } from './support/events.ts';

const IMAGES = '/var/lib/libvirt/images';
const DOMAINS = ['one', 'two'];
const MINUTE = 60_000;

/** Two domains with a boot sector that halts (cli, hlt), and noise: all that a backup needs. */
const PREPARATION = `mkdir -p ${IMAGES}; cd ${IMAGES}
  head -c 16M /dev/urandom >raw
  printf '\\372\\364\\353\\375' | dd conv=notrunc of=raw status=none
  printf '\\125\\252' | dd conv=notrunc of=raw bs=1 seek=510 status=none
  for name in ${DOMAINS.join(' ')}; do
    qemu-img convert -f raw -O qcow2 raw $name.qcow2
    virsh -q define /run/$name.xml
  done
  rm raw`;

/** One boot for all of it: an emulated host takes its time. */
describe('repositories on real NFS and CIFS servers, mounted by an agent under AppArmor', () => {
  const stack = new AsyncDisposableStack();
  let lab: Lab;
  let holdfast: Holdfast;
  let ganesha: Nas;
  let samba: Samba;
  let host: MicroHost;
  before(async function () {
    this.timeout(8 * MINUTE);
    lab = stack.use(await startLab());
    holdfast = stack.use(await startHoldfast(lab));
    [ganesha, samba] = await Promise.all([startGanesha(), startSamba()]);
    stack.use(ganesha);
    stack.use(samba);
    host = await startMicroHost(lab, holdfast.client, async (vm) => {
      for (const name of DOMAINS) await vm.writeFile(`/run/${name}.xml`, domainXml(name));
      await vm.sh(PREPARATION, 3 * MINUTE);
    });
    await add('nfs', nfs('/backups'));
    const shown = await add('cifs', cifs(String.raw`\\10.0.2.2\backups`));
    assert.equal(shown?.address, '//10.0.2.2/backups');
  });
  after(() => stack.disposeAsync());
  beforeEach(function () {
    this.currentTest?.timeout(5 * MINUTE);
  });
  afterEach(async function () {
    if (this.currentTest?.state === 'failed') console.error((await host.logs()).slice(-20_000));
  });

  async function add(name: string, more: Partial<AddRepositoryRequest>): Promise<Repository | undefined> {
    const { repositories } = holdfast.client;
    const request = AddRepositoryRequest.fromPartial({ zone: host.zone, name, ...more });
    return (await holdfast.client.call(repositories.addRepository.bind(repositories), request)).repository;
  }
  const nfs = (exported: string): Partial<AddRepositoryRequest> => ({
    type: RepositoryType.REPOSITORY_TYPE_NFS,
    address: `10.0.2.2:${exported}`,
    mountOptions: [`port=${ganesha.port}`],
  });
  const cifs = (address: string): Partial<AddRepositoryRequest> => ({
    type: RepositoryType.REPOSITORY_TYPE_CIFS,
    address,
    mountOptions: [`port=${samba.port}`],
    credentials: { username: samba.username, password: samba.password, domain: '' },
  });
  const space = (name: string) => {
    const { client } = holdfast;
    return client.call(client.repositories.getRepository.bind(client.repositories), { name });
  };
  const backup = async (
    repository: string,
    domain: string,
    settings: Record<string, string> = {},
    onCopy?: (jobId: string) => Promise<void>,
  ): Promise<Followed> => {
    const { client } = holdfast;
    const { id } = await client.startBackup({ zone: host.zone, domain, repository, settings });
    return client.follow(id, (event) => (isStart(event, Stage.STAGE_BLOCKJOB) ? onCopy?.(id) : undefined));
  };
  /** Mounted repositories, as in /proc/mounts; '' when there are none. */
  const mounts = () => host.vm.sh('grep -E " (nfs4?|cifs|smb3) " /proc/mounts || true');
  /** No mount, no process of a job and no folder is left, on the host and on the server. */
  const nothingLeft = async (): Promise<void> => {
    let found = '';
    await until('Nothing is left', 60_000, async () => {
      // In brackets, so that it does not find itself.
      found = `${await mounts()}${await host.vm.sh(
        `pgrep -af '[r]unner.ts|[q]emu-storage-daemon|[u]nmounter.ts' || true
        find /run/holdfast/agent/jobs /run/holdfast/agent/nbd /var/lib/holdfast/scratch -mindepth 1
        find /var/lib/libvirt/qemu -name 'holdfast-*'`,
      )}`;
      return found === '' ? true : undefined;
    }).catch((error: unknown) => {
      throw new Error(`${String(error)} ${found}`);
    });
    for (const nas of [ganesha, samba]) {
      const files = await readdir(path.join(nas.files, 'backups'), { recursive: true });
      assert.deepEqual(
        files.filter((name) => /\.partial|\.tmp$|probe/.test(name)),
        [],
      );
    }
  };
  /** The backup of a stopped domain holds what its image does, by all three: the server's files, verify and restore. */
  const proveWhole = async (nas: Nas, domain: string, { backupId }: Operation): Promise<void> => {
    const { client } = holdfast;
    const { path: folder } = await client.getBackup(backupId);
    const files = await readdir(path.join(nas.files, 'backups', folder));
    assert.ok(files.includes('manifest.json') && files.includes('vda.qcow2'), files.join());
    succeeded(await client.verifyBackup({ backupId }));
    const directory = `/var/lib/restored/${backupId}`;
    await host.vm.sh(`mkdir -p ${directory}`);
    succeeded(await client.restoreBackup({ backupId, host: host.hostName, directory }));
    await host.vm.sh(`qemu-img compare ${IMAGES}/${domain}.qcow2 ${directory}/*vda*`);
  };
  const refused = async (more: Partial<AddRepositoryRequest>, reason: string, message: RegExp) => {
    await assert.rejects(add('refused', more), (error: { reason: string; message: string }) => {
      assert.equal(error.reason, reason, error.message);
      assert.match(error.message, message);
      assert.ok(!error.message.includes(samba.password));
      return true;
    });
    assert.doesNotMatch(await mounts(), /private-/);
  };

  it('what cannot be used is refused before anything is touched', async () => {
    const password = `${samba.password}?`;
    const wrong = { ...cifs('//10.0.2.2/backups'), credentials: { username: 'nas', password, domain: '' } };
    const port = (option: string) => ({ ...nfs('/backups'), mountOptions: [option] });
    await refused(nfs('/nowhere'), 'MOUNT_FAILED', /No such file/i);
    await refused(nfs('/readonly'), 'REPOSITORY_UNUSABLE', /read-only|cannot be written/i);
    await refused(nfs('/squashed'), 'REPOSITORY_UNUSABLE', /permission|cannot be written/i);
    await refused(port('port=9'), 'REPOSITORY_STALLED', /refused/i);
    await refused(port('exec'), 'INVALID_REQUEST', /exec/);
    await refused(cifs('//10.0.2.2/nowhere'), 'MOUNT_FAILED', /No such file/i);
    await refused(cifs('//10.0.2.2/readonly'), 'REPOSITORY_UNUSABLE', /cannot be written/i);
    await refused(wrong, 'MOUNT_FAILED', /Permission denied/i);
  });

  it('a stopped domain is backed up to NFS, which hangs for longer than its lease, and another one to CIFS meanwhile', async () => {
    const toCifs = async (): Promise<void> => {
      const followed = await backup('cifs', 'two', {}, passwordIsHidden);
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
    assert.ok(!(await host.logs()).includes(samba.password));
    await nothingLeft();
  });

  /** In no argument, environment, mount option and file of the host, while the repository is mounted. */
  async function passwordIsHidden(): Promise<void> {
    const { vm } = host;
    await vm.writeFile('/dev/shm/needle', samba.password);
    assert.match(await mounts(), / cifs rw,nosuid,nodev,noexec,.*vers=3\.\d/);
    const found = await vm.sh(`cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/mounts 2>/dev/null |
      tr '\\0' '\\n' | grep -cFf /dev/shm/needle || true
      grep -rlFf /dev/shm/needle --exclude-dir=mounts /run/holdfast /var/lib/holdfast /var/log /tmp || true`);
    assert.equal(found.trim(), '0');
    assert.ok(!JSON.stringify((await space('cifs')).repository).includes(samba.password));
  }

  it('running domains under AppArmor are pulled to NFS and pushed to CIFS', async () => {
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

  it('a NAS with another file system than last time is refused', async () => {
    await ganesha.replaceFiles();
    await assert.rejects(space('nfs'), { reason: 'REPOSITORY_MISMATCH' });
    assert.deepEqual(await readdir(path.join(ganesha.files, 'backups')), []);
    await nothingLeft();
  });
});

function domainXml(name: string): string {
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>${randomUUID()}</uuid>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='${IMAGES}/${name}.qcow2'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

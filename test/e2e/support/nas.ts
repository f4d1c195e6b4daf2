import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  AddRepositoryRequest,
  type GetRepositoryResponse,
  RepositoryType,
  type Repository,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { succeeded, type Followed } from '../../harness/follow.ts';
import { startHoldfast, type Holdfast } from '../../harness/holdfast.ts';
import { startMicroHost, type MicroHost } from '../../harness/microHost.ts';
import { until } from '../../lab/deadline.ts';
import { startGanesha } from '../../lab/ganesha.ts';
import { startLab, type Lab } from '../../lab/lab.ts';
import type { Nas } from '../../lab/nas.ts';
import { startSamba, type Samba } from '../../lab/samba.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { isStart } from './events.ts';

export const IMAGES = '/var/lib/libvirt/images';
export const DOMAINS = ['one', 'two'];
export const MINUTE = 60_000;

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

/** NFS and CIFS servers and an emulated host that mounts them, filled before the first test of the describe. */
export interface NasFixture {
  readonly holdfast: Holdfast;
  readonly ganesha: Nas;
  readonly samba: Samba;
  readonly host: MicroHost;
  /** What adds an export of the NFS server. */
  readonly nfs: (exported: string) => Partial<AddRepositoryRequest>;
  /** What adds a share of the CIFS server. */
  readonly cifs: (address: string) => Partial<AddRepositoryRequest>;
  /** Asks how much space the repository `nfs` or `cifs` has. */
  readonly space: (name: string) => Promise<GetRepositoryResponse>;
  readonly backup: (
    repository: string,
    domain: string,
    settings?: Record<string, string>,
    onCopy?: (jobId: string) => Promise<void>,
  ) => Promise<Followed>;
  /** Mounted repositories, as in /proc/mounts; '' when there are none. */
  readonly mounts: () => Promise<string>;
  /** No mount, no process of a job and no folder is left, on the host and on the server. */
  readonly nothingLeft: () => Promise<void>;
  /** The backup of a stopped domain holds what its image does, by all three: the server's files, verify and restore. */
  readonly proveWhole: (nas: Nas, domain: string, operation: Operation) => Promise<void>;
  /** Adding the repository is refused, and leaves no mount. */
  readonly refused: (more: Partial<AddRepositoryRequest>, reason: string, message: RegExp) => Promise<void>;
  /** Samba's password is in no argument, environment, mount option and file of the host while it is mounted. */
  readonly passwordIsHidden: () => Promise<void>;
}

/** Inside `describe`: the servers, the host with two domains that are shut off, and the repositories nfs and cifs. */
export function useNas(): NasFixture {
  const stack = new AsyncDisposableStack();
  let lab: Lab;
  let holdfast: Holdfast;
  let ganesha: Nas;
  let samba: Samba;
  let host: MicroHost;
  before(async function () {
    this.timeout(8 * MINUTE);
    lab = stack.use(await startLab());
    holdfast = stack.use(await startHoldfast(lab, { clientDeadlineMs: 150_000 }));
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
  const mounts = () => host.vm.sh('grep -E " (nfs4?|cifs|smb3) " /proc/mounts || true');
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

  async function passwordIsHidden(): Promise<void> {
    const { vm } = host;
    // Not by writeFile, which syncs: that hangs while a server does.
    const needle = Buffer.from(samba.password).toString('base64');
    await vm.sh(`echo ${needle} | base64 -d >/dev/shm/needle`);
    assert.match(await mounts(), / cifs rw,nosuid,nodev,noexec,.*vers=3\.\d/);
    const found = await vm.sh(
      `cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/mounts 2>/dev/null |
      tr '\\0' '\\n' | grep -cFf /dev/shm/needle || true
      grep -rlFf /dev/shm/needle --exclude-dir=mounts /run/holdfast /var/lib/holdfast /var/log || true`,
      3 * MINUTE,
    );
    assert.equal(found.trim(), '0');
    assert.ok(!JSON.stringify((await space('cifs')).repository).includes(samba.password));
  }

  return {
    get holdfast() {
      return holdfast;
    },
    get ganesha() {
      return ganesha;
    },
    get samba() {
      return samba;
    },
    get host() {
      return host;
    },
    ...{ nfs, cifs, space, backup, mounts, nothingLeft, proveWhole, refused, passwordIsHidden },
  };
}

/** Of a domain with one disk that needs no system on it. */
export function domainXml(name: string): string {
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

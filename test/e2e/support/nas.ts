import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
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
import { namesBelow } from '../../harness/namesBelow.ts';
import { until } from '../../lab/deadline.ts';
import { startGanesha } from '../../lab/ganesha.ts';
import { startLab, type Lab } from '../../lab/lab.ts';
import type { MicroVm } from '../../lab/microVm.ts';
import type { Nas } from '../../lab/nas.ts';
import { startSamba, type Samba } from '../../lab/samba.ts';
import type { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { isStart } from './events.ts';

export const IMAGES = '/var/lib/libvirt/images';
export const MINUTE = 60_000;

/** A domain of the emulated host, whose disk never changes. */
export interface IdleDomain {
  readonly name: string;
  readonly start?: boolean;
}

/**
 * Makes domains in an emulated host. Their BIOS is nothing but `hlt`: all that a backup needs, and no work for the host.
 *
 * @param content a command whose output their disks begin with, such as `cat /dev/urandom`
 */
export async function makeIdleDomains(
  vm: MicroVm,
  domains: readonly IdleDomain[],
  sizeMiB: number,
  content: string,
): Promise<void> {
  const files = domains.map(({ name }) => `cat >/run/${name}.xml <<'XML'\n${domainXml(name)}XML\n`);
  const started = domains.flatMap(({ name, start }) => (start === true ? [name] : []));
  await vm.sh(
    `${files.join('')}
    mkdir -p ${IMAGES}; cd ${IMAGES}
    head -c 64K /dev/zero | tr '\\0' '\\364' >halt.rom
    for name in ${domains.map(({ name }) => name).join(' ')}; do
      ${content} | head -c ${sizeMiB}M >$name.raw
      virsh -q define /run/$name.xml
    done
    for name in ${started.join(' ')}; do
      virsh -q start $name
    done`,
    5 * MINUTE,
  );
}

export interface NasOptions {
  readonly domains: readonly IdleDomain[];
  /** Of each domain's disk. */
  readonly sizeMiB: number;
  /** Of the NFS server, see startGanesha. */
  readonly leaseSeconds?: number;
}

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
  /** How the data of a backup left the domain: pull, push or direct. */
  readonly transportOf: (followed: Followed) => Promise<string | undefined>;
  /** Mounted repositories, as in /proc/mounts; '' when there are none. */
  readonly mounts: () => Promise<string>;
  /** No mount, no process of a job and no folder is left, on the host and on the server. */
  readonly nothingLeft: () => Promise<void>;
  /** The image of a backup, as it lies on the server, holds what the domain's disk does. */
  readonly proveStored: (nas: Nas, domain: string, operation: Operation) => Promise<void>;
  /** The same of an image that is verified, restored, and compared on the host. */
  readonly proveRestored: (domain: string, operation: Operation) => Promise<void>;
  /** Adding the repository is refused. */
  readonly refused: (more: Partial<AddRepositoryRequest>, reason: string, message: RegExp) => Promise<void>;
  /** libvirtd and this many domains are confined by profiles that are enforced, and nothing was denied so far. */
  readonly requireConfined: (domains: number) => Promise<void>;
  /** Samba's password is in no argument, environment, mount option and file of the host while it is mounted. */
  readonly passwordIsHidden: () => Promise<void>;
}

/** Inside `describe`: the servers, the host with its domains, and the repositories nfs and cifs. */
export function useNas({ domains, sizeMiB, leaseSeconds }: NasOptions): NasFixture {
  const stack = new AsyncDisposableStack();
  let lab: Lab;
  let holdfast: Holdfast;
  let ganesha: Nas;
  let samba: Samba;
  let host: MicroHost;
  before(async function () {
    this.timeout(12 * MINUTE);
    lab = stack.use(await startLab());
    const starting = startHoldfast(lab, { clientDeadlineMs: 150_000 }).then((started) => {
      holdfast = stack.use(started);
      return holdfast.client;
    });
    [host, ganesha, samba] = await Promise.all([
      startMicroHost(lab, starting, (vm) => makeIdleDomains(vm, domains, sizeMiB, 'cat /dev/urandom')),
      startGanesha(leaseSeconds).then((started) => stack.use(started)),
      startSamba().then((started) => stack.use(started)),
      starting,
    ]);
    const [, shown] = await Promise.all([
      add('nfs', nfs('/backups')),
      add('cifs', cifs(String.raw`\\10.0.2.2\backups`)),
    ]);
    assert.equal(shown?.address, '//10.0.2.2/backups');
  });
  after(() => stack.disposeAsync());
  beforeEach(function () {
    this.currentTest?.timeout(8 * MINUTE);
  });
  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    console.error((await host.logs()).slice(-20_000));
    console.error(await host.vm.sh('dmesg | tail -n 40'));
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
  /** One after the other: to find a domain is a dozen of processes, which an emulated host takes its time for. */
  let asked: Promise<unknown> = Promise.resolve();
  const backup = async (
    repository: string,
    domain: string,
    settings: Record<string, string> = {},
    onCopy?: (jobId: string) => Promise<void>,
  ): Promise<Followed> => {
    const { client } = holdfast;
    const request = { zone: host.zone, domain, repository, settings };
    const accepted = asked.then(() => client.startBackup(request));
    asked = accepted.catch(() => undefined);
    const { id } = await accepted;
    return client.follow(id, (event) => (isStart(event, Stage.STAGE_BLOCKJOB) ? onCopy?.(id) : undefined));
  };
  const transportOf = async (followed: Followed): Promise<string | undefined> =>
    (await holdfast.client.getBackup(succeeded(followed).backupId)).manifest?.transport;
  const mounts = () => host.vm.sh('grep -E " (nfs4?|cifs|smb3) " /proc/mounts || true');
  const nothingLeft = async (): Promise<void> => {
    let found = '';
    await until('Nothing is left', 3 * MINUTE, async () => {
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
      const files = await namesBelow(path.join(nas.files, 'backups'));
      assert.deepEqual(
        files.filter((name) => /\.partial|\.tmp$|probe/.test(name)),
        [],
      );
    }
  };
  const proveStored = async (nas: Nas, domain: string, { backupId }: Operation): Promise<void> => {
    const { path: folder } = await holdfast.client.getBackup(backupId);
    const directory = path.join(nas.files, 'backups', folder);
    const files = await readdir(directory);
    assert.ok(files.includes('manifest.json') && files.includes('vda.qcow2'), files.join());
    const raw = path.join(holdfast.directory, `${backupId}.raw`);
    await execa('qemu-img', ['convert', '-O', 'raw', path.join(directory, 'vda.qcow2'), raw]);
    const [stored] = (await execa('sha256sum', [raw])).stdout.split(' ');
    const [source] = (await host.vm.sh(`sha256sum ${IMAGES}/${domain}.raw`)).split(' ');
    assert.equal(stored, source);
  };
  const proveRestored = async (domain: string, { backupId }: Operation): Promise<void> => {
    const { client } = holdfast;
    succeeded(await client.verifyBackup({ backupId }));
    const directory = `/var/lib/restored/${backupId}`;
    await host.vm.sh(`mkdir -p ${directory}`);
    succeeded(await client.restoreBackup({ backupId, host: host.hostName, directory }));
    await host.vm.sh(`qemu-img compare -f raw ${IMAGES}/${domain}.raw ${directory}/*vda*`);
  };
  const refused = async (more: Partial<AddRepositoryRequest>, reason: string, message: RegExp) => {
    await assert.rejects(add('refused', more), (error: { reason: string; message: string }) => {
      assert.equal(error.reason, reason, error.message);
      assert.match(error.message, message);
      assert.ok(!error.message.includes(samba.password));
      return true;
    });
  };

  const requireConfined = async (running: number): Promise<void> => {
    const { vm } = host;
    const profiles = await vm.sh(
      `for pid in $(pgrep -x libvirtd) $(pgrep -f '^/usr/bin/qemu-system-x86_64.*guest='); do
        cat /proc/$pid/attr/current
      done`,
    );
    const domain = String.raw`(libvirt-[-0-9a-f]{36} \(enforce\)\n)`;
    assert.match(profiles, new RegExp(`^libvirtd \\(enforce\\)\\n${domain}{${running}}$`));
    assert.equal(await vm.sh('dmesg | grep "apparmor=.DENIED" || true'), '');
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
    ...{ nfs, cifs, space, backup, transportOf, mounts, nothingLeft, proveStored, proveRestored },
    ...{ refused, requireConfined, passwordIsHidden },
  };
}

/** Of a domain with one disk that needs no system on it. */
function domainXml(name: string): string {
  return `<domain type='qemu'>
  <name>${name}</name>
  <uuid>${randomUUID()}</uuid>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type><loader type='rom'>${IMAGES}/halt.rom</loader></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='${IMAGES}/${name}.raw'/><target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
`;
}

import assert from 'node:assert/strict';
import { useHoldfast, type Fixture } from '../../harness/fixture.ts';
import { nothingLeft } from '../../faults/support/nothingLeft.ts';
import { startCeph, type Ceph } from '../../lab/ceph.ts';
import { MiB } from '../../lab/spec.ts';
import { filesDisk } from './guests.ts';
import { cephxXml, defineCephSecret, importDisk, rbdDiskXml, replaceDisks, snapshotsOf } from './rbd.ts';

const VM_CAPABILITIES = ['mon', 'profile rbd', 'osd', 'profile rbd'];
/** The cluster and the user of the backed-up domain's own disks. */
export const SAME_CLUSTER = { namespace: '', monitors: [], user: '', secretUuid: '', confPath: '' };
/** MiB/s at which reading the clone alone takes half a minute. */
export const SLOWLY = { 'nas.backup.bandwidth.limit.mbps': '1' };

/** A stopped domain whose disks are RBD images, vda an image and vdb a clone, and a pool beside theirs. */
export interface RbdFixture extends Fixture {
  readonly ceph: Ceph;
  /** UUID of libvirt's secret with the key of client.vm. */
  readonly secret: string;
  /** POOL/IMAGE of vda. */
  readonly one: string;
  /** POOL/IMAGE of vdb. */
  readonly two: string;
  /** Gives the domain its disks: vda of another image, or both with another way to reach the cluster. */
  readonly define: (image?: string, access?: string) => Promise<void>;
  readonly request: (settings?: Record<string, string>) => {
    zone: string;
    domain: string;
    settings: Record<string, string>;
  };
  /** Of both images. */
  readonly snapshots: () => Promise<string[]>;
  /** No snapshot and nothing else of a job is left. */
  readonly noTrace: () => Promise<void>;
}

/** Inside `describe`: the cluster with the pool `other`, and the domain. */
export function useRbdVolumes(): RbdFixture {
  const fixture = useHoldfast({
    // Pushing needs both.
    lab: { qemuUser: 'libvirt-qemu', mounts: 'shared' },
    guest: {
      disks: [
        filesDisk,
        { target: 'vdb', format: 'raw', sizeBytes: 32 * MiB, content: { kind: 'random', everyMiB: 8 } },
      ],
      start: false,
    },
  });
  const stack = new AsyncDisposableStack();
  let ceph: Ceph;
  let secret: string;
  let one: string;
  let two: string;
  before(async () => {
    const { lab, guest, holdfast } = fixture;
    ceph = stack.use(await startCeph());
    [one, two] = [`${ceph.pool}/one`, `${ceph.pool}/two`];
    const base = `${ceph.pool}/base`;
    secret = await defineCephSecret(lab, 'vm', (await ceph.makeUser('client.vm', VM_CAPABILITIES)).key);
    await importDisk(ceph, guest.disks[0], one);
    await importDisk(ceph, guest.disks[1], base);
    await ceph.rbd(['snap', 'create', '--no-progress', `${base}@s`]);
    await ceph.rbd(['snap', 'protect', `${base}@s`]);
    await ceph.rbd(['clone', `${base}@s`, two]);
    await ceph.makePool('other');
    await define();
    await holdfast.client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
  });
  after(() => stack.disposeAsync());

  const define = async (image = one, access = cephxXml(ceph, 'vm', secret)): Promise<void> => {
    const disks = [rbdDiskXml('vda', image, access), rbdDiskXml('vdb', two, access)];
    await replaceDisks(fixture.lab, fixture.guest, disks);
  };
  const request = (settings: Record<string, string> = {}) => ({
    zone: 'z1',
    domain: fixture.guest.name,
    settings,
  });
  const snapshots = async (): Promise<string[]> =>
    (await Promise.all([one, two].map((image) => snapshotsOf(ceph, image)))).flat();
  const noTrace = async (): Promise<void> => {
    assert.deepEqual(await snapshots(), []);
    await nothingLeft(fixture.lab, fixture.holdfast);
  };
  return {
    get lab() {
      return fixture.lab;
    },
    get guest() {
      return fixture.guest;
    },
    get holdfast() {
      return fixture.holdfast;
    },
    get ceph() {
      return ceph;
    },
    get secret() {
      return secret;
    },
    get one() {
      return one;
    },
    get two() {
      return two;
    },
    ...{ define, request, snapshots, noTrace },
  };
}

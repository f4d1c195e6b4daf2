import assert from 'node:assert/strict';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import { scriptedVirsh } from '../testing/virsh.ts';
import { pushLimit } from './pushLimit.ts';

const UUID = '11111111-2222-4333-8444-555555555555';

/** A libvirt with a job for each disk that takes a limit when `takes` says so. */
function libvirtThat(takes: (target: string) => boolean) {
  const limits = new Map([
    ['vda', 0],
    ['vdb', 0],
  ]);
  const virsh = scriptedVirsh(([, , target = '', what, value]) => {
    if (!limits.has(target)) return { exitCode: 1, stderr: 'error: No current block job for that disk\n' };
    if (what === '--info')
      return { stdout: ` type=Backup\n bandwidth=${limits.get(target)}\n cur=1\n end=2\n` };
    if (takes(target)) limits.set(target, Number(value));
    else return { exitCode: 1, stderr: 'error: Timed out during operation\n' };
    return {};
  });
  return { virsh, limits };
}

describe('the limit of a push', () => {
  it('is divided among the disks, and anew when one has ended', async () => {
    const { virsh, limits } = libvirtThat(() => true);
    const limit = pushLimit(virsh, UUID, ['vda', 'vdb'], '');
    await limit.setLimit(50 * MIB);
    await limit.begin();
    assert.deepEqual([...limits.values()], [25 * MIB, 25 * MIB]);
    limits.delete('vda');
    assert.deepEqual([...(await limit.look()).keys()], ['vdb']);
    assert.equal(limits.get('vdb'), 50 * MIB);
    assert.equal(limit.complaints().size, 0);
  });

  for (const enforce of ['', 'fail'])
    it(`that libvirt does not take fails the backup: ${enforce || 'by default'}`, async () => {
      const limit = pushLimit(libvirtThat((target) => target === 'vda').virsh, UUID, ['vda', 'vdb'], enforce);
      await limit.setLimit(50 * MIB);
      await assert.rejects(limit.begin(), {
        reason: 'LIMIT_NOT_APPLIED',
        metadata: { disk: 'vdb' },
        message: /26214400 bytes a second for disk vdb did not take.*none is in force\. Timed out/,
      });
    });

  it('that libvirt does not take is a warning when that is enough, told once for each limit', async () => {
    const limit = pushLimit(libvirtThat(() => false).virsh, UUID, ['vda'], 'warn');
    await limit.setLimit(50 * MIB);
    await limit.begin();
    assert.match(limit.complaints().get('vda') ?? '', /did not take/);
    await limit.look();
    assert.equal(limit.complaints().size, 0);
    await limit.setLimit(20 * MIB);
    assert.match(limit.complaints().get('vda') ?? '', /20971520 bytes/);
  });

  it('that changes while a part of the old one is being set ends as what was wished last', async () => {
    const { virsh, limits } = libvirtThat(() => true);
    // The higher the limit, the longer libvirt takes: an order of its own.
    const unequal = async (args: readonly string[]): ReturnType<typeof virsh.attempt> => {
      for (let turn = 0; turn < Math.log2(Number(args[4] ?? 1)); turn += 1) await nextTurn();
      return virsh.attempt(args);
    };
    const limit = pushLimit({ ...virsh, attempt: unequal }, UUID, ['vda', 'vdb'], '');
    await limit.setLimit(50 * MIB);
    await limit.begin();
    // Found by the look, which sets it again; meanwhile the pause comes.
    limits.set('vda', 7 * MIB);
    limits.set('vdb', 7 * MIB);
    const looked = limit.look();
    for (let turn = 0; turn < 5; turn += 1) await nextTurn();
    await Promise.all([looked, limit.pause()]);
    assert.deepEqual([...limits.values()], [1, 1]);
    await Promise.all([limit.look(), limit.resume(), limit.look()]);
    assert.deepEqual([...limits.values()], [25 * MIB, 25 * MIB]);
  });

  it('that another one changes is set again', async () => {
    const { virsh, limits } = libvirtThat(() => true);
    const limit = pushLimit(virsh, UUID, ['vda', 'vdb'], '');
    await limit.setLimit(50 * MIB);
    await limit.begin();
    limits.set('vda', 0);
    await limit.look();
    assert.equal(limits.get('vda'), 25 * MIB);
  });
});

import assert from 'node:assert/strict';
import { MIB } from '@holdfast/common/bytes.ts';
import { Stage, WaitReason, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import type { Guest } from '../lab/guest.ts';
import { until } from '../lab/deadline.ts';
import { isFinish, isStart } from './support/events.ts';
import { restingDisk } from './support/guests.ts';

const BUDGET_MIBPS = 8;
/** Outlives the other one on a busy machine, too. */
const LARGE_MIB = 256;
const SMALL_MIB = 24;
/** A busy machine gets more than the second that it is meant to take. */
const SOON_MS = 2_000;
const { STAGE_BLOCKJOB } = Stage;

/** What one backup did, by the clock of this machine. */
interface Seen {
  readonly events: { readonly event: OperationEvent; readonly atMs: number }[];
}

describe('two hosts that share a bandwidth', () => {
  const fixture = useHoldfast({
    guest: { disks: [restingDisk(LARGE_MIB)], start: false },
    holdfast: { agents: [{ zone: 'z1' }, { zone: 'z1' }] },
  });
  let other: Guest;
  before(async () => {
    other = await fixture.lab.guest({ disks: [restingDisk(SMALL_MIB)], start: false });
  });

  const run = async (guest: Guest, host: string): Promise<{ seen: Seen; ended: Promise<string> }> => {
    const { client } = fixture.holdfast;
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.uuid, host });
    const seen: Seen = { events: [] };
    const ended = client
      .follow(id, (event) => {
        seen.events.push({ event, atMs: performance.now() });
        return Promise.resolve();
      })
      .then((followed) => succeeded(followed).id);
    return { seen, ended };
  };
  const timeOf = ({ events }: Seen, is: (event: OperationEvent) => boolean): number | undefined =>
    events.find(({ event }) => is(event))?.atMs;
  /** How much it has read by its latest progress. */
  const latestRead = ({ events }: Seen): { readonly bytes: number; readonly atMs: number } => {
    const read = events.flatMap(({ event: { event }, atMs }) =>
      event?.$case === 'stageProgress' && event.value.stage === STAGE_BLOCKJOB
        ? [{ bytes: Number(event.value.figures?.inputBytes ?? 0n), atMs }]
        : [],
    );
    return read.at(-1) ?? { bytes: 0, atMs: NaN };
  };
  /** When a share of so many MiB/s was in force, at or after a time. */
  const shareAt = ({ events }: Seen, mibps: number, sinceMs: number): number | undefined =>
    events.find(
      ({ event: { event }, atMs }) =>
        atMs >= sinceMs &&
        event?.$case === 'shareApplied' &&
        Math.abs(Number(event.value.bytesPerSecond) / MIB - mibps) < 0.01,
    )?.atMs;

  it('divide it as backups come and go, and keep to it together', async () => {
    const { client } = fixture.holdfast;
    await client.setSettings('z1', { 'nas.backup.bandwidth.zone.limit.mbps': String(BUDGET_MIBPS) });
    const large = await run(fixture.guest, 'host-1');
    const begun = await until('The first backup reads', 20_000, () =>
      Promise.resolve(timeOf(large.seen, (event) => isStart(event, STAGE_BLOCKJOB))),
    );
    await until('It has all of the bandwidth', 20_000, () =>
      Promise.resolve(shareAt(large.seen, BUDGET_MIBPS, 0)),
    );
    const small = await run(other, 'host-2');
    const smallId = await small.ended;
    const left = timeOf(small.seen, (event) => isFinish(event, STAGE_BLOCKJOB)) ?? NaN;
    await until('The first one has all of it again', 20_000, () =>
      Promise.resolve(shareAt(large.seen, BUDGET_MIBPS, left)),
    );
    const read = latestRead(large.seen);
    await client.setSettings('z1', {}, ['nas.backup.bandwidth.zone.limit.mbps']);
    const largeId = await large.ended;

    const joined = timeOf(small.seen, (event) => isStart(event, STAGE_BLOCKJOB)) ?? NaN;
    for (const seen of [large.seen, small.seen]) {
      const halved = shareAt(seen, BUDGET_MIBPS / 2, 0) ?? NaN;
      assert.ok(halved - joined < SOON_MS, `divided after ${halved - joined} ms`);
    }
    const alone = shareAt(large.seen, BUDGET_MIBPS, left) ?? NaN;
    assert.ok(alone - left < SOON_MS, `all of it again after ${alone - left} ms`);
    // Nothing of it lies idle, and no more than it is used.
    const rate = ((read.bytes / MIB + SMALL_MIB) * 1_000) / (read.atMs - begun);
    assert.ok(rate < BUDGET_MIBPS * 1.05, `${rate} MiB/s`);
    assert.ok(rate > BUDGET_MIBPS * 0.8, `${rate} MiB/s`);
    const shared = (SMALL_MIB * 1_000) / (left - joined);
    assert.ok(shared < (BUDGET_MIBPS / 2) * 1.1, `the second one alone: ${shared} MiB/s`);
    assert.deepEqual(
      [(await client.getOperation(largeId)).host, (await client.getOperation(smallId)).host],
      ['host-1', 'host-2'],
    );
  });

  it('have slots, for which operations wait their turn', async () => {
    const { client } = fixture.holdfast;
    await client.setSettings('z1', {
      'nas.backup.concurrency.per.host': '1',
      'nas.backup.bandwidth.zone.limit.mbps': String(BUDGET_MIBPS),
    });
    const running = await run(fixture.guest, 'host-1');
    await until('The first backup reads', 20_000, () =>
      Promise.resolve(timeOf(running.seen, (event) => isStart(event, STAGE_BLOCKJOB))),
    );
    const waiting = await run(other, 'host-1');
    const queued = await until('The second one waits', 20_000, () =>
      Promise.resolve(
        waiting.seen.events.flatMap(({ event: { event } }) =>
          event?.$case === 'queued' ? [event.value] : [],
        )[0],
      ),
    );
    assert.equal(queued.reason, WaitReason.WAIT_REASON_HOST_SLOT);
    assert.equal(queued.message, 'waiting for a slot on host host-1');
    assert.equal(queued.position, 1);
    await client.setSettings('z1', {}, ['nas.backup.bandwidth.zone.limit.mbps']);
    await Promise.all([running.ended, waiting.ended]);
    const firstEnd = running.seen.events.at(-1)?.atMs ?? NaN;
    const secondStart = timeOf(waiting.seen, ({ event }) => event?.$case === 'accepted') ?? NaN;
    assert.ok(secondStart > firstEnd - SOON_MS && !Number.isNaN(secondStart));
    const starts = timeOf(waiting.seen, (event) => isStart(event, STAGE_BLOCKJOB)) ?? NaN;
    const stops = timeOf(running.seen, (event) => isFinish(event, STAGE_BLOCKJOB)) ?? NaN;
    assert.ok(starts > stops, 'one after the other');
  });
});

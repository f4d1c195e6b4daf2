import assert from 'node:assert/strict';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { noFigures } from '../stages/context.ts';
import { eventLog, type EventLog, type JobEvent } from './eventLog.ts';
import type { JournalEntry } from './journal.ts';
import { journaledEvents } from './journal.ts';

const now = (): Date => new Date(0);
const warning = (reason: string): JobEvent => ({
  $case: 'warning',
  value: { reason, message: '', target: '' },
});
const progress = (stage: Stage, processedBytes: bigint): JobEvent => ({
  $case: 'stageProgress',
  value: { stage, figures: { ...noFigures, processedBytes }, disks: [] },
});
const end: JobEvent = { $case: 'completed', value: { result: undefined } };
const finished = (stage: Stage): JobEvent => ({
  $case: 'stageFinished',
  value: { stage, figures: undefined, disks: [] },
});

function logged(): { log: EventLog; entries: JournalEntry[] } {
  const entries: JournalEntry[] = [];
  const journal = {
    append: (entry: JournalEntry) => {
      entries.push(entry);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
  return { entries, log: eventLog(journal, [], now) };
}

async function all(
  log: EventLog,
  after = 0n,
  signal = new AbortController().signal,
): Promise<OperationEvent[]> {
  return Array.fromAsync(log.follow(after, signal));
}

const short = (event: OperationEvent): string =>
  `${event.sequence} ${event.event?.$case === 'warning' ? event.event.value.reason : (event.event?.$case ?? '')}`;

describe('an event log', () => {
  it('numbers without gaps and ends after the last event', async () => {
    const { log } = logged();
    for (const reason of ['A', 'B']) await log.append(warning(reason));
    await log.append(end);
    assert.deepEqual((await all(log)).map(short), ['1 A', '2 B', '3 completed']);
  });

  it('resumes after any number', async () => {
    const { log } = logged();
    for (const reason of ['A', 'B', 'C']) await log.append(warning(reason));
    await log.append(end);
    assert.deepEqual((await all(log, 2n)).map(short), ['3 C', '4 completed']);
  });

  it('gives readers what comes later, each of them everything', async () => {
    const { log } = logged();
    const readers = [all(log), all(log), all(log, 1n)];
    for (const reason of ['A', 'B', 'C']) await log.append(warning(reason));
    await log.append(end);
    const seen = await Promise.all(readers);
    assert.deepEqual(seen[0]?.map(short), ['1 A', '2 B', '3 C', '4 completed']);
    assert.deepEqual(seen[1]?.map(short), seen[0].map(short));
    assert.deepEqual(seen[2]?.map(short), seen[0].slice(1).map(short));
  });

  it('keeps of progress the latest of each stage alone, and none of a finished stage', async () => {
    const { log, entries } = logged();
    await log.append(warning('A'));
    for (let step = 0n; step < 1_000n; step++) {
      await log.append(progress(Stage.STAGE_BLOCKJOB, step));
      await log.append(progress(Stage.STAGE_CONVERT, step));
    }
    await log.append(progress(Stage.STAGE_PREPARE, 1n));
    await log.append(finished(Stage.STAGE_PREPARE));
    assert.equal(entries.length, 2);
    const reading = log.follow(0n, new AbortController().signal);
    const seen: OperationEvent[] = [];
    for (let count = 0; count < 4; count++) seen.push((await reading.next()).value as OperationEvent);
    assert.deepEqual(seen.slice(0, 2).map(short), ['1 A', '2 stageFinished']);
    for (const event of seen.slice(2)) {
      assert.equal(event.sequence, 1n);
      assert.equal(event.event?.$case === 'stageProgress' && event.event.value.figures?.processedBytes, 999n);
    }
    await reading.return();
  });

  it('sends progress in the order of time', async () => {
    const { log } = logged();
    await log.append(progress(Stage.STAGE_BLOCKJOB, 1n));
    await log.append(progress(Stage.STAGE_CONVERT, 1n));
    await log.append(progress(Stage.STAGE_BLOCKJOB, 2n));
    const reading = log.follow(0n, new AbortController().signal);
    const stages: (Stage | undefined)[] = [];
    for (let count = 0; count < 2; count++) {
      const { event } = (await reading.next()).value as OperationEvent;
      stages.push(event?.$case === 'stageProgress' ? event.value.stage : undefined);
    }
    assert.deepEqual(stages, [Stage.STAGE_CONVERT, Stage.STAGE_BLOCKJOB]);
    await reading.return();
  });

  it('sends progress after all events that came before it, however slow the reader is', async () => {
    const { log } = logged();
    await log.append(warning('A'));
    const reading = log.follow(0n, new AbortController().signal);
    const next = async (): Promise<string> => short((await reading.next()).value as OperationEvent);
    assert.equal(await next(), '1 A');
    await log.append(warning('B'));
    await log.append(progress(Stage.STAGE_BLOCKJOB, 1n));
    assert.equal(await next(), '2 B');
    assert.equal(await next(), '2 stageProgress');
    await reading.return();
  });

  it('ends when the signal aborts, also while it waits', async () => {
    const { log } = logged();
    await log.append(warning('A'));
    const gone = new AbortController();
    const reading = all(log, 0n, gone.signal);
    setImmediate(() => {
      gone.abort();
    });
    assert.deepEqual((await reading).map(short), ['1 A']);
    assert.deepEqual(await all(log, 0n, gone.signal), []);
  });

  it('shows nobody an event that is not in the journal', async () => {
    const stuck = Promise.withResolvers<undefined>();
    const log = eventLog({ append: () => stuck.promise, close: () => Promise.resolve() }, [], now);
    const seen: string[] = [];
    const reading = (async () => {
      for await (const event of log.follow(0n, new AbortController().signal)) seen.push(short(event));
    })();
    const appended = log.append(end);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(seen, []);
    stuck.resolve(undefined);
    await Promise.all([appended, reading]);
    assert.deepEqual(seen, ['1 completed']);
  });

  it('goes on after what an earlier process left', async () => {
    const first = logged();
    for (const reason of ['A', 'B']) await first.log.append(warning(reason));
    const earlier = journaledEvents(first.entries);
    const log = eventLog({ append: () => Promise.resolve(), close: () => Promise.resolve() }, earlier, now);
    await log.append(end);
    assert.deepEqual((await all(log)).map(short), ['1 A', '2 B', '3 completed']);
  });
});

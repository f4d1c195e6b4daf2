import { randomInt } from 'node:crypto';
import { readdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { watchPulse } from '../support/pulse.ts';
import { succeeded } from '../../harness/follow.ts';
import { startBed, ZONE, type Bed } from './bed.ts';
import { decide, inWords, type Decision } from './decide.ts';
import { listed, requireAsTheGuest, requireOrder, requireRestores, requireTruth } from './invariants.ts';
import { perform, type Outcome } from './perform.ts';

/** A row of soak.json. */
interface Row {
  readonly step: number;
  readonly what: string;
  readonly outcome: string;
  readonly seconds: number;
  /** Longest that a write of the guest waited; undefined when the guest itself was killed. */
  readonly stallMs: number | undefined;
  /** Whether the guest had to be started anew, as libvirt had lost its backup job (docs/reliability.md). */
  readonly guestRestarted: boolean;
  readonly problems: readonly string[];
}

const MINUTE = 60_000;
/** So that the last step, which restores all of them, takes no longer than the others together. */
const MOST_BACKUPS = 4;

/** Operations and kills at random until the time is over; then everything that is listed is restored. */
async function soak(seed: number, minutes: number): Promise<readonly Row[]> {
  await using bed = await startBed();
  const rows: Row[] = [];
  const endMs = performance.now() + minutes * MINUTE;
  for (let step = 1; performance.now() < endMs; step++) {
    const row = await take(bed, decide(seed, step));
    rows.push(row);
    print(row);
    if (row.problems.length > 0) console.log((await bed.holdfast.logs()).slice(-5_000));
  }
  const problems: string[] = [];
  const attempt = attempting(problems);
  for (const { uuid } of [bed.running, bed.stopped])
    await attempt('The next backup', async () =>
      succeeded(await bed.holdfast.client.takeBackup({ zone: ZONE, domain: uuid })),
    );
  const backups = await listed(bed);
  for (const backup of backups) await attempt(`Backup ${backup.id}`, () => requireRestores(bed, backup));
  await attempt('The end', () => requireOrder(bed));
  const last = { step: rows.length + 1, what: `restore all ${backups.length} backups`, outcome: 'done' };
  rows.push({ ...last, seconds: 0, stallMs: undefined, guestRestarted: false, problems });
  return rows;
}

/** One step with everything that must hold after it. */
async function take(bed: Bed, decided: Decision): Promise<Row> {
  const before = await listed(bed);
  const decision = possible(decided, before);
  const backup = before[Math.floor(decision.which * before.length)];
  const killsGuest = decision.interference.kind === 'kill' && decision.interference.victim === 'guest QEMU';
  const problems: string[] = [];
  const attempt = attempting(problems);
  const pulse = killsGuest ? undefined : await watchPulse(bed.running);
  let outcome: Outcome | undefined;
  await attempt('The operation', async () => {
    outcome = await perform(bed, decision, backup?.id ?? '');
    requireTruth(decision, outcome);
  });
  let stallMs: number | undefined;
  await attempt('The guest', async () => {
    const met = await pulse?.end();
    stallMs = met?.stallMs;
    if (met !== undefined && met.failed > 0) throw new Error(`${met.failed} writes failed.`);
    const state = await bed.running.state();
    if (state !== 'running') throw new Error(`It is ${state}.`);
  });
  await attempt('What the operation came to', async () => {
    if (outcome !== undefined) await requireResult(bed, decision, outcome, backup);
  });
  let guestRestarted = false;
  if (decision.interference.kind === 'kill' && decision.interference.victim === 'libvirtd')
    await attempt("libvirt's jobs", async () => {
      guestRestarted = await restartWhenJobIsLost(bed);
    });
  await attempt('Order', () => requireOrder(bed));
  const ended = outcome === undefined ? 'not ended' : `${outcome.state} ${outcome.reason}`.trim();
  const missed = outcome?.interfered === false && decision.interference.kind !== 'none' ? ', not met' : '';
  return {
    step: decision.step,
    what: inWords(decision),
    outcome: `${ended}${missed}`,
    seconds: Math.round(outcome?.seconds ?? 0),
    ...{ stallMs, guestRestarted, problems },
  };
}

/** A libvirtd that is killed as it begins a backup may not know the job again, nor let go of it (docs/reliability.md). */
async function restartWhenJobIsLost(bed: Bed): Promise<boolean> {
  const { lab, running } = bed;
  const isLost = await lab.virsh(['domjobinfo', running.uuid]).then(
    () => false,
    (error: unknown) => String(error).includes('backup job data missing'),
  );
  if (isLost) {
    await running.destroy();
    await lab.killLibvirtd('SIGTERM');
    await lab.startLibvirtd();
    await bed.restartGuest();
  }
  return isLost;
}

/** What is decided may need backups that are not there, or room for another one. */
function possible(decision: Decision, backups: readonly Backup[]): Decision {
  if (backups.length === 0) return { ...decision, work: 'backup' };
  return decision.work === 'backup' && backups.length >= MOST_BACKUPS
    ? { ...decision, work: 'delete' }
    : decision;
}

async function requireResult(
  bed: Bed,
  { work }: Decision,
  { state, operation, directory }: Outcome,
  backup: Backup | undefined,
): Promise<void> {
  const isListed = async (id: string): Promise<boolean> => (await listed(bed)).some((each) => each.id === id);
  switch (work) {
    case 'backup':
      if ((await isListed(operation.backupId)) !== (state === 'succeeded'))
        throw new Error(`It ${state}, and the list of backups says otherwise.`);
      return;
    case 'verify':
      return;
    case 'restore':
      if (state === 'succeeded' && backup !== undefined) return requireAsTheGuest(bed, backup, directory);
      if ((await readdir(directory)).length > 0) throw new Error(`Something is left in ${directory}.`);
      return;
    case 'delete':
      // Done again, it is done.
      if (state !== 'succeeded') succeeded(await bed.holdfast.client.deleteBackup(operation.backupId));
      if (await isListed(operation.backupId)) throw new Error('The deleted backup is listed.');
  }
}

function attempting(problems: string[]): (what: string, look: () => Promise<unknown>) => Promise<void> {
  return async (what, look) => {
    try {
      await look();
    } catch (error) {
      problems.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
    }
  };
}

function print({ step, what, outcome, seconds, stallMs, guestRestarted, problems }: Row): void {
  const stall = stallMs === undefined ? '' : `, longest stall ${stallMs} ms`;
  console.log(`${step}. ${what}: ${outcome} in ${seconds} s${stall}`);
  if (guestRestarted) console.log('   GUEST STARTED ANEW: libvirt had lost its backup job.');
  for (const problem of problems) console.log(`   PROBLEM: ${problem}`);
}

/** `make soak`; the same seed gives the same sequence of decisions. */
const { values } = parseArgs({ options: { minutes: { type: 'string' }, seed: { type: 'string' } } });
const minutes = Number(values.minutes ?? 60);
const seed = Number(values.seed ?? randomInt(2 ** 31));
if (!(minutes > 0) || !Number.isSafeInteger(seed)) throw new Error('soak.ts [--minutes N] [--seed N]');
console.log(`Soak of ${minutes} minutes. To repeat it: HOLDFAST_SEED=${seed}`);
const rows = await soak(seed, minutes);
await writeFile(
  path.resolve(import.meta.dirname, '../../../soak.json'),
  `${JSON.stringify({ seed, minutes, rows }, null, 2)}\n`,
);
const bad = rows.filter(({ problems }) => problems.length > 0);
const stallMs = Math.max(0, ...rows.map((row) => row.stallMs ?? 0));
for (const row of bad) print(row);
const restarts = rows.filter(({ guestRestarted }) => guestRestarted).length;
console.log(`The guest was started anew ${restarts} times, as libvirt had lost its backup job.`);
console.log(
  `${rows.length} steps, ${bad.length} with problems, longest stall of the guest ${stallMs} ms. HOLDFAST_SEED=${seed}`,
);
process.exitCode = bad.length > 0 ? 1 : 0;

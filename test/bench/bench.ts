import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { bare } from './bare.ts';
import { makeBed, type Bed } from './bed.ts';
import { measureCatalogue } from './fleet/catalogue.ts';
import { measureFleet } from './fleet/fleet.ts';
import { median, type Cost } from './measure.ts';
import { onePass } from './onePass.ts';
import { measureRotation } from './rotation.ts';
import { staged } from './staged.ts';
import { throttle } from './throttle.ts';
import { bareContent, takeVerifiable, verifyContent } from './verifyContent.ts';

/**
 * A line of bench.json. `pairs` are the values of which `value` is the median; where there is a `load`, they are the values
 * at each percentage of the full load, of which `value` is the last.
 */
interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly pairs: readonly number[];
  readonly load?: readonly number[];
  /** At most this is expected. */
  readonly target: number;
}

interface Pair {
  readonly ours: Cost;
  readonly theirs: Cost;
}

/** `make bench`: one pass against the staged way and against the bare tool, by turns, on the same data. */
async function bench(most: number): Promise<readonly Figure[]> {
  await using bed = await makeBed();
  console.log(costLine('WHAT', ['WALL', 'CPU', 'READ', 'WRITTEN', 'FINAL']));
  // Not counted: the first backup of a zone makes its key, and the first of an agent compiles its runner.
  print('holdfast, first', await onePass(bed, { check: false }));
  const vsBare = await pairs(bed, Math.min(3, most), { check: false }, 'qemu-img convert', () => bare(bed));
  const vsTuned = await pairs(bed, Math.min(3, most), { check: true }, 'staged, tuned', () =>
    staged(bed, 'tuned'),
  );
  const vsStaged = await pairs(bed, Math.min(2, most), { check: true }, 'staged', () =>
    staged(bed, 'defaults'),
  );
  const verifiable = await takeVerifiable(bed);
  const verified = await byTurns(
    Math.min(3, most),
    ['holdfast, content', () => verifyContent(bed, verifiable)],
    ['nbdcopy to nothing', () => bareContent(bed, verifiable)],
  );
  const throttled = [await throttle(bed), await throttle(bed)];
  const ratio = ({ ours, theirs }: Pair) => ours.seconds / theirs.seconds;
  return [
    figure('full_both_vs_staged', 'ratio', 0.25, vsStaged.map(ratio)),
    figure('full_both_vs_staged_tuned', 'ratio', 1, vsTuned.map(ratio)),
    figure('full_both_vs_bare', 'ratio', 1.15, vsBare.map(ratio)),
    figure(
      'nas_bytes_written_vs_final',
      'ratio',
      1.05,
      vsBare.map(({ ours }) => ours.writtenBytes / ours.finalBytes),
    ),
    figure(
      'nas_bytes_read_vs_final',
      'ratio',
      0.02,
      vsBare.map(({ ours }) => ours.readBytes / ours.finalBytes),
    ),
    figure('verify_content_vs_bare', 'ratio', 1.5, verified.map(ratio)),
    figure(
      'throttle_error',
      'ratio',
      0.1,
      throttled.map(({ error }) => error),
    ),
    figure(
      'throttle_change_ms',
      'ms',
      1000,
      throttled.map(({ changeMs }) => changeMs),
    ),
  ];
}

const LOADS_PERCENT = [10, 50, 100];
const AGENTS = 1_000;
const BACKUPS_PER_AGENT = 10;
const CATALOGUE = 1_000_000;
const ROTATED_BACKUPS = 10_000;

/** One controller and many agents that move no data, at a part of the load and at all of it. */
async function fleet(seconds: number): Promise<readonly Figure[]> {
  const of = (percent: number, all: number): number => Math.round((all * percent) / 100);
  const runs = [];
  for (const load of LOADS_PERCENT) {
    const agents = of(load, AGENTS);
    const run = await measureFleet({
      ...{ agents, backupsPerAgent: BACKUPS_PER_AGENT },
      seconds: load === 100 ? seconds : seconds / 5,
    });
    console.log(`${agents} agents with ${agents * BACKUPS_PER_AGENT} backups:`, run);
    runs.push(run);
  }
  const steps = LOADS_PERCENT.map((load) => of(load, CATALOGUE));
  const sqlite = await measureCatalogue('sqlite', steps);
  console.log('catalogue on SQLite:', sqlite);
  const postgres = await measureCatalogue('postgres', steps);
  console.log('catalogue on PostgreSQL:', postgres);
  const grown = (name: string, unit: string, target: number, values: readonly number[]): Figure => ({
    ...{ name, value: values.at(-1) ?? NaN, unit, pairs: values, load: LOADS_PERCENT, target },
  });
  return [
    grown(
      'fleet_event_p99_ms',
      'ms',
      250,
      runs.map(({ eventP99Ms }) => eventP99Ms),
    ),
    grown(
      'fleet_rss_mib',
      'MiB',
      1024,
      runs.map(({ rssMib }) => rssMib),
    ),
    grown(
      'fleet_rss_growth_mib',
      'MiB',
      64,
      runs.map(({ rssGrowthMib }) => rssGrowthMib),
    ),
    grown(
      'fleet_events_lost',
      'events',
      0,
      runs.map(({ lost }) => lost),
    ),
    grown(
      'fleet_controller_cpu_percent',
      '% of a core',
      200,
      runs.map((run) => run.controllerCpuPercent),
    ),
    grown(
      'fleet_generator_cpu_percent',
      '% of a core',
      200,
      runs.map((run) => run.generatorCpuPercent),
    ),
    grown(
      'list_page_p99_ms_sqlite',
      'ms',
      50,
      sqlite.map(({ listPageP99Ms }) => listPageP99Ms),
    ),
    grown(
      'list_page_p99_ms_postgres',
      'ms',
      50,
      postgres.map(({ listPageP99Ms }) => listPageP99Ms),
    ),
    grown(
      'take_backup_p99_ms_sqlite',
      'ms',
      50,
      sqlite.map(({ takeBackupP99Ms }) => takeBackupP99Ms),
    ),
    grown(
      'take_backup_p99_ms_postgres',
      'ms',
      50,
      postgres.map(({ takeBackupP99Ms }) => takeBackupP99Ms),
    ),
  ];
}

/** The keys of many backups that are wrapped anew. */
async function rotation(): Promise<readonly Figure[]> {
  const { backups, seconds } = await measureRotation(ROTATED_BACKUPS);
  console.log(`rotation of ${backups} backups' keys: ${seconds.toFixed(1)} s`);
  return [figure('rotate_10000_keys_s', 's', 300, [seconds])];
}

function pairs(
  bed: Bed,
  count: number,
  options: { readonly check: boolean },
  name: string,
  run: () => Promise<Cost>,
): Promise<readonly Pair[]> {
  const ourName = options.check ? 'holdfast, checked' : 'holdfast';
  return byTurns(count, [ourName, () => onePass(bed, options)], [name, run]);
}

/** Runs one and the other, again and again. */
async function byTurns(
  count: number,
  [ourName, our]: readonly [string, () => Promise<Cost>],
  [theirName, their]: readonly [string, () => Promise<Cost>],
): Promise<readonly Pair[]> {
  const done: Pair[] = [];
  while (done.length < count) {
    const ours = await our();
    print(ourName, ours);
    const theirs = await their();
    print(theirName, theirs);
    done.push({ ours, theirs });
  }
  return done;
}

function figure(name: string, unit: string, target: number, values: readonly number[]): Figure {
  return { name, value: median(values), unit, pairs: values, target };
}

function print(name: string, cost: Cost): void {
  const mib = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(0)} MiB`;
  const seconds = [cost.seconds, cost.cpuSeconds].map((value) => `${value.toFixed(1)} s`);
  const bytes = [cost.readBytes, cost.writtenBytes, cost.finalBytes].map(mib);
  console.log(costLine(name, [...seconds, ...bytes]));
}

function costLine(name: string, cells: readonly string[]): string {
  return name.padEnd(20) + cells.map((cell) => cell.padStart(11)).join('');
}

// On a signal the lab's own supervisor removes everything once this process is gone.
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(130));

// `--pairs N` bounds the pairs of each kind, `--fleet-seconds N` the time of the fleet, for a quick look.
const { values } = parseArgs({
  options: { pairs: { type: 'string', default: '5' }, 'fleet-seconds': { type: 'string', default: '300' } },
});
const figures = [
  ...(await bench(Number(values.pairs))),
  ...(await rotation()),
  ...(await fleet(Number(values['fleet-seconds']))),
];
console.log(`\n${'FIGURE'.padEnd(30)}${'VALUE'.padStart(9)}${'AT MOST'.padStart(9)}`);
for (const { name, value, target } of figures) {
  const verdict = value <= target ? '' : '  missed';
  console.log(`${name.padEnd(30)}${value.toFixed(3).padStart(9)}${target.toString().padStart(9)}${verdict}`);
}
await writeFile(
  path.resolve(import.meta.dirname, '../../bench.json'),
  `${JSON.stringify(figures, null, 2)}\n`,
);

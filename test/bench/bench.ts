import { parseArgs } from 'node:util';
import { bare } from './bare.ts';
import { makeBed, type Bed } from './bed.ts';
import { keep, print as printFigures, type Figure } from './figures.ts';
import { catalogueFigures, fleetFigures } from './fleet/figures.ts';
import { median, type Cost } from './measure.ts';
import { onePass } from './onePass.ts';
import { measureRotation } from './rotation.ts';
import { staged } from './staged.ts';
import { throttle } from './throttle.ts';
import { bareContent, takeVerifiable, verify } from './verifyContent.ts';

interface Pair {
  readonly ours: Cost;
  readonly theirs: Cost;
}

/** One pass against the staged way and against the bare tool, by turns, on the same data. */
async function data(most: number): Promise<readonly Figure[]> {
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
  print('holdfast, metadata', await verify(bed, verifiable, 'metadata'));
  const verified = await byTurns(
    Math.min(3, most),
    ['holdfast, content', () => verify(bed, verifiable, 'content')],
    ['nbdcopy to nothing', () => bareContent(bed, verifiable)],
  );
  const digested = (digests: 'none' | 'stored' | 'content') => onePass(bed, { check: false, digests });
  const withStored = await byTurns(
    Math.min(3, most),
    ['digests, stored', () => digested('stored')],
    ['no digests', () => digested('none')],
  );
  const withContent = await byTurns(
    Math.min(3, most),
    ['digests, content', () => digested('content')],
    ['no digests', () => digested('none')],
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
    figure('stored_digests_vs_none', 'ratio', 1.1, withStored.map(ratio)),
    figure('content_digests_vs_none', 'ratio', 1.5, withContent.map(ratio)),
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

const ROTATED_BACKUPS = 10_000;

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
const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { pairs: { type: 'string', default: '5' }, 'fleet-seconds': { type: 'string', default: '300' } },
});
const parts: Readonly<Record<string, () => Promise<readonly Figure[]>>> = {
  data: () => data(Number(values.pairs)),
  rotation,
  fleet: () => fleetFigures(Number(values['fleet-seconds'])),
  catalogue: catalogueFigures,
};
for (const name of positionals) {
  if (!Object.hasOwn(parts, name)) {
    console.error(`There is no part ${name}: ${Object.keys(parts).join(', ')}.`);
    process.exit(2);
  }
}
const measured: Figure[] = [];
for (const [name, measurePart] of Object.entries(parts)) {
  if (positionals.length > 0 && !positionals.includes(name)) continue;
  const figures = await measurePart();
  // Kept at once: hours of measurement shall not be lost with what comes after them.
  await keep(figures);
  measured.push(...figures);
}
printFigures(measured);

import { mkdir, readFile, rename, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { lockAlone } from '@holdfast/common/fileLock.ts';
import { until } from '../../lab/deadline.ts';
import type { Row } from './perform.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');

/** Where the rows of all runs on this checkout are. */
export const RESULTS_FILE = path.join(ROOT, 'faults.json');

/** The rows of runs so far; none when there was no run. */
export async function readRows(): Promise<readonly Row[]> {
  const text = await readFile(RESULTS_FILE, 'utf8').catch(() => '[]');
  return JSON.parse(text) as readonly Row[];
}

/** Puts a row in the place of the one of the same case. Several runs may do that at the same time. */
export async function writeRow(row: Row): Promise<void> {
  await change((rows) => [...rows.filter((other) => other.case !== row.case), row]);
}

/** Takes out the rows of cases that are about to be run. */
export async function forgetRows(cases: readonly string[]): Promise<void> {
  await change((rows) => rows.filter((row) => !cases.includes(row.case)));
}

async function change(how: (rows: readonly Row[]) => readonly Row[]): Promise<void> {
  const directory = path.join(ROOT, '.cache');
  await mkdir(directory, { recursive: true });
  const lock = await until('faults.json is free', 20_000, () =>
    Promise.resolve(lockAlone(path.join(directory, 'faults.lock'))),
  );
  try {
    const rows = how(await readRows());
    await writeFile(`${RESULTS_FILE}.tmp`, `${JSON.stringify(rows, undefined, 2)}\n`);
    await rename(`${RESULTS_FILE}.tmp`, RESULTS_FILE);
  } finally {
    lock.release();
  }
}

import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';

const FILE = path.resolve(import.meta.dirname, '../../bench.json');

/**
 * A line of bench.json. `pairs` are the values of which `value` is the median; where there is a `load`, they are the values
 * at each percentage of the full load, of which `value` is the last.
 */
export interface Figure {
  readonly name: string;
  readonly value: number;
  readonly unit: string;
  readonly pairs: readonly number[];
  readonly load?: readonly number[];
  /** At most this is expected. */
  readonly target: number;
}

/** Enters figures into bench.json, in the place of those of the same names that are there. */
export async function keep(figures: readonly Figure[]): Promise<void> {
  const known = new Map([...(await read()), ...figures].map((figure) => [figure.name, figure]));
  await writeFile(FILE, `${JSON.stringify([...known.values()], null, 2)}\n`);
}

async function read(): Promise<readonly Figure[]> {
  try {
    return JSON.parse(await readFile(FILE, 'utf8')) as Figure[];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

export function print(figures: readonly Figure[]): void {
  console.log(`\n${'FIGURE'.padEnd(30)}${'VALUE'.padStart(9)}${'AT MOST'.padStart(9)}`);
  for (const { name, value, target } of figures) {
    const verdict = value <= target ? '' : '  missed';
    console.log(
      `${name.padEnd(30)}${value.toFixed(3).padStart(9)}${target.toString().padStart(9)}${verdict}`,
    );
  }
}

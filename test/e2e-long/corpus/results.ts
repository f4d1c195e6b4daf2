import path from 'node:path';

export const LEVELS = ['metadata', 'stored', 'content'] as const;
export type Level = (typeof LEVELS)[number];

/** What one verification of a damaged backup came to. */
export interface Row {
  readonly kind: string;
  readonly region: string;
  readonly level: Level;
  readonly found: boolean;
}

/** Where the rows of the last run are. */
export const RESULTS_FILE = path.resolve(import.meta.dirname, '../../../corpus.json');

/** Damage that a level need not find, since it is not what it looks at. */
const BLIND: Readonly<Record<Level, readonly string[]>> = {
  metadata: [
    ...['qcow2 header', 'LUKS header', 'data', 'compressed data'],
    ...['digests of what is stored', 'digests of the content'],
    ...['two images swapped', 'image of an older backup'],
  ],
  stored: ['digests of the content'],
  content: ['qcow2 header', 'LUKS header', 'digests of what is stored'],
};

/** Whether a level promises to find damage to a region. */
export function mustFind(region: string, level: Level): boolean {
  return !BLIND[level].includes(region);
}

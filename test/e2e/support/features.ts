/** What a backup can be asked for, each with its values. */
export const dimensions = {
  compression: ['off', 'zstd', 'zlib'],
  encryption: [false, true],
  throttle: [false, true],
  check: [false, true],
  quiesce: ['off', 'best-effort', 'required'],
  state: ['running', 'shut off'],
} as const;

type Dimensions = typeof dimensions;
export type Features = { readonly [Key in keyof Dimensions]: Dimensions[Key][number] };

const keys = Object.keys(dimensions) as (keyof Features)[];

/** MiB/s with throttle on: more than the guest writes, less than the machine can. */
export const LIMIT_MIBPS = 24;
export const PASSPHRASE = 'correct horse battery staple, zone one';

/** Every combination, those of a running domain first. */
export function allFeatures(): Features[] {
  let rows: Partial<Record<keyof Features, unknown>>[] = [{}];
  for (const key of keys)
    rows = rows.flatMap((row) => dimensions[key].map((value) => ({ ...row, [key]: value })));
  return inOrder(rows as unknown as Features[]);
}

/** Few combinations in which every two values of two features meet. */
export function pairwiseFeatures(): Features[] {
  const all = allFeatures();
  const missing = new Set(all.flatMap(pairsOf));
  const chosen: Features[] = [];
  while (missing.size > 0) {
    const gain = (row: Features): number => pairsOf(row).filter((pair) => missing.has(pair)).length;
    const best = all.reduce((left, right) => (gain(right) > gain(left) ? right : left));
    chosen.push(best);
    for (const pair of pairsOf(best)) missing.delete(pair);
  }
  return inOrder(chosen);
}

export function settingsOf(features: Features): Record<string, string> {
  return {
    'nas.backup.compression.enabled': String(features.compression !== 'off'),
    ...(features.compression === 'off' ? {} : { 'nas.backup.compression.algorithm': features.compression }),
    'nas.backup.encryption.enabled': String(features.encryption),
    'nas.backup.bandwidth.limit.mbps': features.throttle ? String(LIMIT_MIBPS) : '0',
    'nas.backup.integrity.check': String(features.check),
    'nas.backup.quiesce': features.quiesce,
  };
}

/** Such as `running, zstd, encrypted, checked, quiesce off`. */
export function titleOf(features: Features): string {
  return [
    features.state,
    features.compression === 'off' ? 'not compressed' : features.compression,
    ...(features.encryption ? ['encrypted'] : []),
    ...(features.throttle ? ['throttled'] : []),
    ...(features.check ? ['checked'] : []),
    `quiesce ${features.quiesce}`,
  ].join(', ');
}

function pairsOf(row: Features): string[] {
  return keys.flatMap((left, index) =>
    keys.slice(index + 1).map((right) => `${left}=${String(row[left])} ${right}=${String(row[right])}`),
  );
}

function inOrder(rows: readonly Features[]): Features[] {
  return rows.toSorted((left, right) => left.state.localeCompare(right.state));
}

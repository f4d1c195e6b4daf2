const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'] as const;

/** Bytes in binary units with one decimal: `512 B`, `1.5 MiB`. */
export function formatBytes(bytes: bigint | number): string {
  let value = Number(bytes);
  let unit = 0;
  // 1023.95 would be written as "1024.0".
  while (Math.abs(value) >= (unit === 0 ? 1024 : 1023.95) && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value.toFixed(0) : value.toFixed(1)} ${UNITS[unit] ?? 'B'}`;
}

/** A rate, given in bytes a second, in MiB/s with one decimal: always MiB, so that it compares with a limit. */
export function formatRate(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1024 ** 2).toFixed(1)} MiB/s`;
}

/** A limit in MiB/s, in words when there is none. */
export function formatLimit(mibps: bigint): string {
  return mibps === 0n ? 'unlimited' : `${mibps.toString()} MiB/s`;
}

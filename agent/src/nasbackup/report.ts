import type { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import type { BackupRequest } from './arguments.ts';

/** How the programs of CloudStack that call the script take its exit code. */
export const ExitCode = { SUCCESS: 0, FAILURE: 1, CLEANUP_FAILED: 20 } as const;

/** CloudStack then records that the backup is a full one. */
const FALLBACK = 'INCREMENTAL_FALLBACK=true';

/**
 * What the script prints after a backup, which CloudStack reads for the backup's size: with volumes given, it adds up all
 * lines (`ls -l`); without, the last line is the size, and before it is what `virsh domjobinfo` says.
 */
export function backupReport(request: BackupRequest, result: BackupResult): string {
  const fallback = request.incremental ? [FALLBACK] : [];
  const lines = request.volumes.length > 0 ? fileSizes(result) : [...jobInfo(result), `${result.filesBytes}`];
  return [...fallback, ...lines].join('\n');
}

/** What the script prints of a storage: where it is mounted, then its size and what is used of it, in KiB (`df -P`). */
export function statsReport(space: {
  readonly path: string;
  readonly sizeBytes: bigint;
  readonly usedBytes: bigint;
}): string {
  // CloudStack splits at blanks and takes the second word and the third.
  const path = space.path.replace(/(?<=.)\/+$/, '').replaceAll(/\s/g, '_');
  return `${path}\n${space.sizeBytes / 1024n} ${space.usedBytes / 1024n}`;
}

/** The sizes in the order of the files' names. */
function fileSizes(result: BackupResult): readonly string[] {
  return (result.manifest?.disks ?? [])
    .toSorted((left, right) => (left.file < right.file ? -1 : 1))
    .map((disk) => `${disk.storedBytes}`);
}

function jobInfo(result: BackupResult): readonly string[] {
  const disks = result.manifest?.disks ?? [];
  const elapsedMs = Math.max(0, ...(result.manifest?.stages ?? []).map((stage) => Number(stage.elapsedMs)));
  const total = disks.reduce((sum, disk) => sum + disk.virtualSizeBytes, 0n);
  const rows: readonly (readonly [string, string])[] = [
    ['Job type', 'Completed'],
    ['Operation', 'Backup'],
    ['Time elapsed', `${elapsedMs} ms`],
    ['File processed', mebibytes(total)],
    ['File remaining', mebibytes(0n)],
    ['File total', mebibytes(total)],
  ];
  return rows.map(([name, value]) => `${`${name}:`.padEnd(17)} ${value}`);
}

function mebibytes(bytes: bigint): string {
  return `${(Number(bytes) / 1024 ** 2).toFixed(3)} MiB`;
}

export const USAGE = `
Usage: holdfast-nasbackup -o backup -v VM -t TYPE -s ADDRESS [-m MOUNT-OPTIONS] -p PATH [-d VOLUME,...] [-q true|false]
                          [-c] [-b MiB/s] [-e PASSPHRASE-FILE] [--verify]
                          [-M full|incremental] [--bitmap-new NAME] [--bitmap-parent NAME] [--parent-paths PATH,...]
       holdfast-nasbackup -o delete -t TYPE -s ADDRESS [-m MOUNT-OPTIONS] -p PATH
       holdfast-nasbackup -o stats -t TYPE -s ADDRESS [-m MOUNT-OPTIONS]

Takes the place of CloudStack's nasbackup.sh and passes the work to the agent of this host (HOLDFAST_AGENT,
unix:///run/holdfast/agent.sock when that is not set).
`;

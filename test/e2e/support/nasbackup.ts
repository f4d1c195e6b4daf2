import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { execa } from 'execa';
import { Stage, StageFinished, type StageFigures } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Holdfast } from '../../harness/holdfast.ts';

const MINUTE = 60_000;
export const NASBACKUP = path.resolve(import.meta.dirname, '../../../agent/bin/holdfast-nasbackup');

/** What a run of the drop-in came to, as CloudStack's agent sees it. */
export interface NasbackupResult {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunningNasbackup {
  readonly pid: number;
  readonly ended: Promise<NasbackupResult>;
}

/** Starts the drop-in the way CloudStack's agent starts its script: an argv, and nothing on standard input. */
export function startNasbackup(
  holdfast: Holdfast,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): RunningNasbackup {
  const { address } = holdfast.agent;
  const child = execa(NASBACKUP, args, {
    env: { HOLDFAST_AGENT: address.kind === 'unix' ? `unix://${address.path}` : '', ...env },
    reject: false,
    stdin: 'ignore',
    timeout: 3 * MINUTE,
  });
  const ended = child.then(({ exitCode, stdout, stderr }) => ({ exitCode, stdout, stderr }));
  return { pid: child.pid ?? 0, ended };
}

/** Runs the drop-in to its end. */
export async function nasbackup(
  holdfast: Holdfast,
  args: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<NasbackupResult> {
  return startNasbackup(holdfast, args, env).ended;
}

/** The arguments that CloudStack gives for every backup; more go behind. */
export function backupArgs(
  holdfast: Holdfast,
  domain: string,
  folder: string,
  volumes: readonly string[] = [],
): string[] {
  return [
    ...['-o', 'backup', '-v', domain, '-t', 'local', '-s', holdfast.repository(), '-m', ''],
    ...['-p', folder, '-q', 'false', '-d', volumes.join(',')],
  ];
}

/** The figures of the copy that ended last, by the log of its runner: the drop-in itself says nothing of them. */
export async function lastCopy(holdfast: Holdfast): Promise<StageFigures | undefined> {
  const copies = (await holdfast.logs())
    .split('\n')
    .filter((line) => line.includes('"message":"stageFinished"'))
    .map((line) => JSON.parse(line) as { readonly time: string; readonly event: unknown })
    .map(({ time, event }) => ({ time, ...StageFinished.fromJSON(event) }))
    .filter(({ stage }) => stage === Stage.STAGE_BLOCKJOB);
  return copies.toSorted((left, right) => (left.time < right.time ? -1 : 1)).at(-1)?.figures;
}

/** Bytes of a backup by what the program printed, read as LibvirtTakeBackupCommandWrapper reads it. */
export function sizeAsCloudStackReads(stdout: string, volumes: readonly string[]): number {
  const lines = stdout
    .split('\n')
    .filter((line) => !line.includes('INCREMENTAL_FALLBACK=true'))
    .join('\n')
    .trim()
    .split('\n');
  const number = (text: string): number => {
    if (!/^\d+$/.test(text)) throw new Error(`CloudStack cannot read ${JSON.stringify(text)} as a size`);
    return Number(text);
  };
  return volumes.length === 0
    ? number(lines.at(-1)?.trim() ?? '')
    : lines.reduce((sum, line) => sum + number(line.split(' ')[0] ?? ''), 0);
}

/**
 * Restores a volume as LibvirtRestoreBackupCommandWrapper does: mounts the storage at a new place, looks for the file
 * (`ls`), checks it, then copies it over the volume, by rsync to a file, by qemu-img to a block device or RBD. A bind
 * mount is the storage.
 */
export async function restoreAsCloudStack(
  storage: string,
  image: string,
  volume: string,
  how: 'rsync' | 'raw',
): Promise<void> {
  const mountPoint = await mkdtemp(path.join(tmpdir(), 'csbackup.'));
  const step = (file: string, ...args: string[]): Promise<unknown> =>
    execa(file, args, { timeout: MINUTE, stdin: 'ignore' });
  try {
    await step('mount', '--bind', '-o', 'ro', storage, mountPoint);
    try {
      const file = path.join(mountPoint, image);
      await step('ls', file);
      await step('qemu-img', 'check', file);
      const { stdout } = await execa('qemu-img', ['info', '--output=json', file]);
      if (stdout.includes('"backing-filename"')) throw new Error(`${image} has a backing file`);
      if (how === 'rsync') await step('rsync', '-az', file, volume);
      else await step('qemu-img', 'convert', '-O', 'raw', file, volume);
    } finally {
      await step('umount', mountPoint);
    }
  } finally {
    await rm(mountPoint, { recursive: true });
  }
}

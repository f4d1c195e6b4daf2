import { access, readdir, rm } from 'node:fs/promises';
import path from 'node:path';
import { ImageFormat, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { fileIn, requireCleanAfterReplay } from '../../e2e/support/fileSystem.ts';
import { requireSameContent } from '../../e2e/support/images.ts';
import { restoreResult } from '../../e2e/support/restored.ts';
import { nothingLeft } from '../support/nothingLeft.ts';
import { beforeText } from '../../lab/spec.ts';
import { ZONE, type Bed } from './bed.ts';
import type { Decision, Victim } from './decide.ts';
import type { Outcome } from './perform.ts';

/** What an operation may say when this was killed under it. Success is as true, when what came out is good. */
const REASONS: Readonly<Record<Victim, readonly string[]>> = {
  // Whoever asked does not get to hear of these two.
  agent: [],
  controller: [],
  runner: ['RUNNER_DIED'],
  'storage daemon': ['QEMU_FAILED', 'REPOSITORY_FAILED'],
  libvirtd: ['LIBVIRT_FAILED', 'QUIESCE_FAILED'],
  'guest QEMU': ['DOMAIN_STOPPED', 'DOMAIN_STATE', 'LIBVIRT_FAILED', 'QUIESCE_FAILED', 'PUSH_UNUSABLE'],
  'repository helper': ['REPOSITORY_FAILED'],
};

/** The backups that are listed, the newest first. */
export async function listed({ holdfast: { client } }: Bed): Promise<readonly Backup[]> {
  const { backups } = client;
  const request = { zone: ZONE, domain: '', pageSize: 0, pageToken: '', damaged: false };
  return (await client.call(backups.listBackups.bind(backups), request)).backups;
}

/** Throws unless an operation has ended as what was done to it explains. */
export function requireTruth({ interference }: Decision, outcome: Outcome): void {
  const { state, reason, message, interfered } = outcome;
  if (state === 'succeeded') return;
  if (state === 'cancelled' && interference.kind === 'cancel') return;
  const explained = interference.kind === 'kill' ? REASONS[interference.victim] : [];
  if (interfered && explained.includes(reason)) return;
  throw new Error(`It ended as ${state} with ${reason}, which nothing explains: ${message}`);
}

/** Throws unless the repository has what is listed and nothing else, nothing is left of work, and no guest is frozen. */
export async function requireOrder(bed: Bed): Promise<void> {
  const { lab, holdfast, running, stopped } = bed;
  await nothingLeft(lab, holdfast);
  const paths = (await listed(bed)).map((backup) => backup.path);
  for (const { uuid } of [running, stopped]) {
    const folders = await readdir(path.join(holdfast.repository(), uuid)).catch(() => []);
    const unknown = folders.map((name) => `${uuid}/${name}`).filter((folder) => !paths.includes(folder));
    if (unknown.length > 0) throw new Error(`Nobody knows of ${unknown.join(', ')}.`);
  }
  for (const folder of paths) await access(path.join(holdfast.repository(), folder, 'manifest.json'));
  const status = await running.command('guest-fsfreeze-status');
  if (status !== 'thawed') throw new Error(`The guest's file systems are ${String(status)}.`);
}

/** Throws unless a backup restores, and what comes back is what was backed up. */
export async function requireRestores(bed: Bed, backup: Backup): Promise<void> {
  const { client, agent, restoreDirectory } = bed.holdfast;
  const directory = await restoreDirectory();
  const format = ImageFormat.IMAGE_FORMAT_RAW;
  const request = { backupId: backup.id, host: agent.hostName, directory, format };
  restoreResult(await client.restoreBackup(request));
  await requireAsTheGuest(bed, backup, directory);
}

/** The same of files that are restored already, which are removed. */
export async function requireAsTheGuest(bed: Bed, { domainUuid }: Backup, directory: string): Promise<void> {
  const guest = [bed.running, bed.stopped].find(({ uuid }) => uuid === domainUuid);
  for (const disk of guest?.disks ?? []) {
    const copy = path.join(directory, `${guest?.name ?? ''}-${disk.target}.raw`);
    // Nobody writes to raw disks; what is on the other one was written at any time.
    if (disk.format === 'raw') await requireSameContent(disk, { path: copy, format: 'raw' });
    else {
      await requireCleanAfterReplay(copy);
      const text = await fileIn(copy, '/before.txt');
      if (text !== beforeText) throw new Error(`/before.txt in ${copy} is ${JSON.stringify(text)}.`);
    }
  }
  await rm(directory, { recursive: true });
}

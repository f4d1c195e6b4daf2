import { createHash } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { ImageFormat, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { fileIn, requireClean } from '../../e2e/support/fileSystem.ts';
import { requireSameContent } from '../../e2e/support/images.ts';
import { restoreResult } from '../../e2e/support/restored.ts';
import { succeeded } from '../../harness/follow.ts';
import type { Guest } from '../../lab/guest.ts';
import { beforeText, type GuestDisk } from '../../lab/spec.ts';
import { leftoversAfter } from '../support/nothingLeft.ts';
import { REPOSITORY, ZONE, type Bed } from './bed.ts';
import type { Work } from './begin.ts';
import type { Case } from './cases.ts';
import type { Outcome } from './truth.ts';

/** What a process leaves as it ends may take a moment. */
const LEAVING_MS = 15_000;

/** What was found after a case. */
export interface Aftermath {
  /** Of the operation, once everything that removes leftovers by itself has had its time. */
  readonly leftovers: readonly string[];
  readonly problems: readonly string[];
}

/** A good backup of the running guest: that of the case before, when there is one. */
export async function aBackup(bed: Bed): Promise<string> {
  const [kept] = await listed(bed);
  return kept?.id ?? takeBackup(bed, bed.running);
}

/** A backup of a guest, in the repository of the cases. */
async function takeBackup({ holdfast }: Bed, guest: Guest): Promise<string> {
  const request = { zone: ZONE, domain: guest.uuid, repository: REPOSITORY };
  return succeeded(await holdfast.client.takeBackup(request)).backupId;
}

/**
 * Looks at everything after an operation that has ended and a fault that is over: what it says is so, nothing of it is
 * left, the next backup works, and each backup that is listed restores and is as the guest's disks are. Only one backup is
 * there afterwards.
 */
export async function lookAfter(bed: Bed, each: Case, work: Work, outcome: Outcome): Promise<Aftermath> {
  const problems: string[] = [];
  const attempt = async (what: string, look: () => Promise<unknown>): Promise<void> => {
    await look().catch((error: unknown) => problems.push(`${what}: ${String(error)}`));
  };
  const { lab, holdfast, nas } = bed;
  const left = (milliseconds: number): Promise<readonly string[]> =>
    leftoversAfter(milliseconds, lab, holdfast, [nas.point], nas.directory);

  await attempt('What it says of its result', () => requireResult(bed, each, work, outcome));
  let leftovers = await left(LEAVING_MS);
  if (leftovers.length > 0 && mayBeLeft(each, outcome)) {
    // What could not be removed from a repository that was not there is removed when the agent starts.
    await holdfast.agent.kill('SIGTERM');
    await holdfast.agent.start();
    leftovers = await left(LEAVING_MS);
  }
  if (leftovers.length > 0) problems.push('Something is left.');

  await attempt('A file system is frozen', async () => {
    const status = await bed.running.command('guest-fsfreeze-status');
    if (status !== 'thawed') throw new Error(String(status));
  });
  await attempt('The next backup', () => takeBackup(bed, work.guest));
  await attempt('The listed backups', () => requireGood(bed));
  await attempt('The list and the repository', () => requireSameAsListed(bed));
  await attempt('Deleting', () => keepOne(bed));
  return { leftovers, problems };
}

/** Only of an operation that said so itself, since its repository did not let it remove anything. */
function mayBeLeft({ fault }: Case, { state }: Outcome): boolean {
  return fault.kind === 'NAS' && state === 'failed';
}

async function requireResult(bed: Bed, each: Case, work: Work, { state }: Outcome): Promise<void> {
  const { client } = bed.holdfast;
  const isListed = async (): Promise<boolean> => (await listed(bed)).some(({ id }) => id === work.backupId);
  switch (each.operation) {
    case 'backup':
    case 'verify':
      return;
    case 'restore': {
      const files = await readdir(work.restoreDirectory);
      if (state !== 'succeeded' && files.length > 0) throw new Error(`There is ${files.join(', ')}.`);
      if (state === 'succeeded') await requireAsTheGuest(work.guest, await rawImages(work.restoreDirectory));
      return;
    }
    case 'delete':
      // What the repository did not let it remove is removed by doing it again.
      if (state !== 'succeeded' && (await isListed())) succeeded(await client.deleteBackup(work.backupId));
      if (await isListed()) throw new Error('The deleted backup is listed.');
  }
}

async function listed({ holdfast: { client } }: Bed): Promise<readonly Backup[]> {
  const { backups } = client;
  const request = { zone: ZONE, domain: '', pageSize: 0, pageToken: '', damaged: false };
  return (await client.call(backups.listBackups.bind(backups), request)).backups;
}

async function requireGood(bed: Bed): Promise<void> {
  for (const backup of await listed(bed)) {
    const digest = await digestOf(path.join(bed.nas.directory, backup.path));
    // What is as it was when it was restored is as good as it was then.
    if (bed.good.get(backup.id) !== digest) await requireRestorable(bed, backup);
    bed.good.set(backup.id, digest);
  }
}

/** Of all files of a backup. */
async function digestOf(folder: string): Promise<string> {
  const digest = createHash('sha256');
  for (const name of (await readdir(folder)).toSorted())
    digest.update(await readFile(path.join(folder, name)));
  return digest.digest('hex');
}

async function requireRestorable(bed: Bed, { id, domainUuid }: Backup): Promise<void> {
  const { client, agent, restoreDirectory } = bed.holdfast;
  const guest = [bed.running, bed.stopped].find(({ uuid }) => uuid === domainUuid);
  if (guest === undefined) throw new Error(`Backup ${id} is of an unknown domain ${domainUuid}.`);
  const directory = await restoreDirectory();
  const format = ImageFormat.IMAGE_FORMAT_RAW;
  const request = { backupId: id, host: agent.hostName, directory, format };
  const { disks } = restoreResult(await client.restoreBackup(request));
  await requireAsTheGuest(guest, new Map(disks.map((disk) => [disk.target, disk.path])));
  await rm(directory, { recursive: true });
}

/** The disks that rest to the byte, the one with files as it was at one instant. */
async function requireAsTheGuest(guest: Guest, images: ReadonlyMap<string, string>): Promise<void> {
  for (const disk of guest.disks) {
    const copy = images.get(disk.target);
    if (copy === undefined) throw new Error(`There is no image of ${disk.target}.`);
    if (isResting(disk)) await requireSameContent(disk, { path: copy, format: 'raw' });
    else await requireFileSystem(copy);
  }
}

/** Clean as it is, since it was frozen. */
async function requireFileSystem(image: string): Promise<void> {
  await requireClean(image);
  const text = await fileIn(image, '/before.txt');
  if (text !== beforeText) throw new Error(`/before.txt in ${image} is ${JSON.stringify(text)}.`);
}

function isResting({ format }: GuestDisk): boolean {
  return format === 'raw';
}

async function rawImages(directory: string): Promise<ReadonlyMap<string, string>> {
  const names = (await readdir(directory)).filter((name) => name.endsWith('.raw'));
  return new Map(names.map((name) => [name.replace(/^.*?([a-z]+)\.raw$/, '$1'), path.join(directory, name)]));
}

/** Each backup in the repository is listed. */
async function requireSameAsListed(bed: Bed): Promise<void> {
  const paths = (await listed(bed)).map((backup) => backup.path);
  for (const { uuid } of [bed.running, bed.stopped]) {
    const folders = await readdir(path.join(bed.nas.directory, uuid)).catch(() => []);
    const unknown = folders.map((name) => `${uuid}/${name}`).filter((folder) => !paths.includes(folder));
    if (unknown.length > 0) throw new Error(`Nobody knows of ${unknown.join(', ')}.`);
  }
}

/** The newest of the running guest, for the next case. */
async function keepOne(bed: Bed): Promise<void> {
  const backups = await listed(bed);
  const kept = backups.find(({ domainUuid }) => domainUuid === bed.running.uuid);
  for (const { id } of backups) {
    if (id === kept?.id) continue;
    succeeded(await bed.holdfast.client.deleteBackup(id));
    bed.good.delete(id);
  }
}

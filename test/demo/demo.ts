import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { ExecaError } from 'execa';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { startLab, type Lab } from '../lab/lab.ts';
import { GiB, MiB } from '../lab/spec.ts';
import { backUp } from './backup.ts';
import { proveBusy, proveResting, restoredIn } from './prove.ts';
import { report } from './report.ts';
import { userOf, type User } from './user.ts';

/** Slow enough that the change half way is seen: without it the copy runs at two to four times this. */
const LIMIT_MIBPS = 40;

const FILES_BYTES = GiB;
const RESTING_BYTES = 256 * MiB;

/** `make demo`: a running guest is backed up with everything on, verified, restored, and what came back is proved. */
async function demo(signal: AbortSignal): Promise<void> {
  title('A guest with 1 GiB of files on a disk that it writes to all the time, and a second disk at rest');
  await using lab = await startLab();
  const guest = await startGuest(lab);
  signal.throwIfAborted();

  title('Controller and agent for this machine, in one process');
  const places = await makePlaces(lab);
  const user = userOf(await startStandalone(lab, places), signal);

  title('Everything on: compression, encryption, a limit, the integrity check, a quiesced guest');
  await user.types([
    ...['zone', 'set', 'demo', 'nas.backup.compression.enabled=true', 'nas.backup.encryption.enabled=true'],
    ...[`nas.backup.bandwidth.limit.mbps=${LIMIT_MIBPS}`, 'nas.backup.integrity.check=true'],
    ...['nas.backup.quiesce=required', '--passphrase-file', places.passphraseFile],
  ]);

  title('The backup; half way, a second terminal (2) lifts the limit');
  await backUp(user, {
    guest,
    args: [guest.name, '--zone', 'demo'],
    halfBytes: (FILES_BYTES + RESTING_BYTES) / 2,
  });
  await user.types(['list']);
  const backup = await onlyBackup(user);

  title('Is it intact?');
  await user.types(['verify', backup]);

  title('Does it come back?');
  const where = ['--host', 'this-host', '--directory', places.restored];
  await user.types(['restore', backup, ...where, '--format', 'raw', '--name', 'web-restored']);
  const restored = await restoredIn(places.restored, ['vda', 'vdb']);
  await proveBusy('vda', restored.get('vda') ?? '');
  for (const disk of guest.disks.filter(({ target }) => target === 'vdb')) {
    await proveResting(disk, restored.get('vdb') ?? '');
  }
  await report(user, backup, places.repository);
}

async function startGuest(lab: Lab): Promise<Guest> {
  const guest = await lab.guest({
    name: 'web',
    disks: [
      { target: 'vda', content: { kind: 'files', fileBytes: FILES_BYTES } },
      { target: 'vdb', sizeBytes: RESTING_BYTES, content: { kind: 'random' } },
    ],
    writerMiBPerSecond: 2,
  });
  await guest.waitReady();
  return guest;
}

interface Places {
  readonly state: string;
  readonly repository: string;
  readonly restored: string;
  readonly passphraseFile: string;
}

async function makePlaces({ directory }: Lab): Promise<Places> {
  const shared = path.join(directory, 'shared');
  const places = {
    state: path.join(shared, 'state'),
    repository: path.join(shared, 'nas'),
    restored: path.join(shared, 'restored'),
    passphraseFile: path.join(shared, 'passphrase'),
  };
  await mkdir(places.repository);
  await mkdir(places.restored);
  await writeFile(places.passphraseFile, 'correct horse battery staple\n', { mode: 0o600 });
  return places;
}

/** Starts `holdfast standalone` and returns where it listens. */
async function startStandalone(lab: Lab, { state, repository }: Places): Promise<string> {
  const args = ['standalone', '--zone', 'demo', '--host-name', 'this-host', '--state-directory', state];
  const options = ['--repository', `nas=${repository}`, '--libvirt-uri', lab.libvirtUri];
  console.log(`$ holdfast ${[...args, ...options].join(' ')} &`);
  const program = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');
  const standalone = await lab.spawn('standalone', [program, ...args, ...options]);
  const ready = until('holdfast standalone is ready', 30_000, async () => {
    const text = await readFile(standalone.log, 'utf8');
    return text.includes('Ready.') ? true : undefined;
  });
  const ended = standalone.ended.then(async (how) => {
    throw new Error(`holdfast standalone ended (${how}):\n${await readFile(standalone.log, 'utf8')}`);
  });
  // It ends with the lab, when nobody asks any more.
  ended.catch(() => undefined);
  await Promise.race([ready, ended]);
  return `unix://${path.join(state, 'controller.sock')}`;
}

async function onlyBackup(user: User): Promise<string> {
  for await (const backup of user.asks(['list'])) return (backup as { readonly id: string }).id;
  throw new Error('There is no backup in the list.');
}

function title(text: string): void {
  console.log(`\n== ${text}`);
}

const interrupted = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.once(name, () => {
    interrupted.abort(new Error(`Stopped by ${name}.`));
  });
}
const started = performance.now();
try {
  await demo(interrupted.signal);
  const seconds = Math.round((performance.now() - started) / 1000);
  console.log(`\nDone in ${seconds} s; the guest and everything else that was made are gone again.`);
} catch (error) {
  const told = interrupted.signal.aborted ? (interrupted.signal.reason as Error) : error;
  console.error(told instanceof ExecaError ? told.shortMessage : told);
  process.exitCode = interrupted.signal.aborted ? 130 : 1;
}

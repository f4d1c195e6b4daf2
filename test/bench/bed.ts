import { mkdir, readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { startHoldfast, type Holdfast } from '../harness/holdfast.ts';
import type { Guest } from '../lab/guest.ts';
import { startLab, type Lab } from '../lab/lab.ts';
import { GiB, MiB } from '../lab/spec.ts';
import { mountDevice, type Device } from './device.ts';

/** What all runs share: a running guest with real files, one at rest with incompressible data, and the repository. */
export interface Bed extends AsyncDisposable {
  readonly lab: Lab;
  readonly holdfast: Holdfast;
  readonly device: Device;
  /** Runs; has `FILES_BYTES` of files on vda and writes nothing. */
  readonly running: Guest;
  /** Shut off; `RANDOM_BYTES` without a hole, for the limit. */
  readonly resting: Guest;
  /** A file with the passphrase of the staged way and of the bare tool. */
  readonly keyFile: string;
  readonly key: string;
  /** A new directory for scratch and sockets that QEMU can use. */
  readonly workshop: string;
}

/** Of the zone's key. */
export const PASSPHRASE = 'correct horse battery staple';

export const FILES_BYTES = 3 * GiB;
export const RANDOM_BYTES = 768 * MiB;
const REPOSITORY_BYTES = 12 * GiB;

export async function makeBed(): Promise<Bed> {
  await using starting = new AsyncDisposableStack();
  const lab = starting.use(await startLab());
  const holdfast = starting.use(await startHoldfast(lab));
  // The repository moves to a device of its own; its id moves with it.
  const idFile = path.join(holdfast.repository(), 'repository-id');
  const id = await readFile(idFile);
  const device = await mountDevice(lab, holdfast.repository(), REPOSITORY_BYTES);
  await writeFile(idFile, id, { mode: 0o600 });
  const running = await lab.guest({
    name: 'busy',
    disks: [{ target: 'vda', content: { kind: 'files', fileBytes: FILES_BYTES } }],
  });
  const resting = await lab.guest({
    name: 'resting',
    start: false,
    disks: [{ target: 'vda', sizeBytes: RANDOM_BYTES, content: { kind: 'random' } }],
  });
  await running.waitReady();
  await holdfast.client.setSettings('z1', {
    'nas.backup.encryption.passphrase': PASSPHRASE,
  });
  const workshop = path.join(lab.directory, 'shared', 'w');
  await mkdir(workshop, { mode: 0o711 });
  const key = 'a key of the staged way, as random as this needs';
  const keyFile = path.join(workshop, 'key');
  await writeFile(keyFile, key, { mode: 0o600 });
  const made = starting.move();
  return {
    ...{ lab, holdfast, device, running, resting, keyFile, key, workshop },
    [Symbol.asyncDispose]: () => made.disposeAsync(),
  };
}

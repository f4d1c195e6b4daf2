import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { Decrypter } from 'age-encryption';
import { execa } from 'execa';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { KEY_SECRET_ID, readOptions } from '@holdfast/agent/qemu/layout.ts';
import { startStorageDaemon } from '@holdfast/agent/qemu/storageDaemon.ts';
import { succeeded } from '../harness/follow.ts';
import { PASSPHRASE, type Bed } from './bed.ts';
import { measure, type Cost } from './measure.ts';

/** A compressed and encrypted backup of the running guest that can be verified. */
export interface Verifiable {
  readonly backupId: string;
  readonly image: string;
  readonly layout: string;
  readonly storedBytes: number;
  readonly key: Secret;
}

/** Takes it, with digests of its content. */
export async function takeVerifiable({ holdfast, running }: Bed): Promise<Verifiable> {
  const settings = {
    'nas.backup.compression.enabled': 'true',
    'nas.backup.encryption.enabled': 'true',
    'nas.backup.integrity.digests': 'content',
  };
  const { client } = holdfast;
  const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: running.name, settings }));
  const { manifest, path: folder } = await client.getBackup(backupId);
  const [disk] = manifest?.disks ?? [];
  if (disk === undefined) throw new Error('the backup has no disk');
  const directory = path.join(holdfast.repository('z1'), folder);
  return {
    backupId,
    image: path.join(directory, disk.file),
    layout: disk.layout,
    storedBytes: Number(disk.storedBytes),
    key: await backupKey(holdfast.repository('z1'), directory),
  };
}

/** Holdfast's verification, from the call to its end; of the metadata it is what each one costs, whatever it reads. */
export async function verify(
  bed: Bed,
  { backupId, storedBytes }: Verifiable,
  level: 'metadata' | 'content',
): Promise<Cost> {
  return measure(bed.device, async () => {
    succeeded(await bed.holdfast.client.verifyBackup({ backupId, level }));
    return storedBytes;
  });
}

/** `nbdcopy` of the same opened image to nothing: what decrypting and decompressing cost by themselves. */
export async function bareContent(bed: Bed, { image, layout, storedBytes, key }: Verifiable): Promise<Cost> {
  await execa('dd', [`if=${image}`, 'iflag=nocache', 'count=0', 'status=none']);
  return measure(bed.device, async () => {
    const daemon = await startStorageDaemon(bed.workshop, silentLogger, new AbortController().signal);
    try {
      await daemon.addSecret(KEY_SECRET_ID, key);
      const options = readOptions(layout, true, image, KEY_SECRET_ID);
      await daemon.qmp.execute('blockdev-add', { ...options, 'node-name': 'image', 'read-only': true });
      const socket = path.join(bed.workshop, 'nbd.sock');
      await daemon.qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: socket } } });
      const served = { id: 'image', 'node-name': 'image', name: 'image', writable: false };
      await daemon.qmp.execute('block-export-add', { type: 'nbd', ...served });
      await execa('nbdcopy', [`nbd+unix:///image?socket=${socket}`, 'null:']);
    } finally {
      await daemon.quit();
    }
    return storedBytes;
  });
}

/** As somebody finds it who has the repository and the passphrase alone. */
async function backupKey(repository: string, folder: string): Promise<Secret> {
  const name = (await readdir(folder)).find((file) => /^key\.\w+\.age$/.test(file));
  if (name === undefined) throw new Error('the backup has no key');
  const zone = new Decrypter();
  zone.addPassphrase(PASSPHRASE);
  const keyFile = path.join(repository, 'zone-keys', name.slice('key.'.length));
  const identity = (await zone.decrypt(await readFile(keyFile), 'text')).trim();
  const backup = new Decrypter();
  backup.addIdentity(identity);
  return new Secret(await backup.decrypt(await readFile(path.join(folder, name)), 'text'));
}

import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { filesDisk, restingDisk } from '../e2e/support/guests.ts';
import { requireSameContent } from '../e2e/support/images.ts';
import { pageOf, type Page } from '../e2e/support/page.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import { onTerminal, type Seen } from './terminal.ts';

const PASSPHRASE = 'Eine Passphrase, die nirgends steht: äöü $(id) "x"';
const QUESTION = 'Enter passphrase: ';
/** Where a reader keeps keys. */
const TMPFS = '/dev/shm';

const compressed = { 'nas.backup.compression.enabled': 'true' };
const encrypted = { 'nas.backup.encryption.enabled': 'true' };

describe('docs/recover-by-hand.md', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk, restingDisk(16)], start: false } });
  let page: Page;
  before(async () => {
    page = await pageOf('docs/recover-by-hand.md');
    await fixture.holdfast.client.setSettings('z1', { 'nas.backup.encryption.passphrase': PASSPHRASE });
  });

  async function take(settings: Readonly<Record<string, string>>): Promise<Backup> {
    const { guest, holdfast } = fixture;
    const { backupId } = succeeded(
      await holdfast.client.takeBackup({ zone: 'z1', domain: guest.name, settings }),
    );
    return holdfast.client.getBackup(backupId);
  }

  /** What a person sees who follows the page from its top to its end. */
  async function follow(backup: Backup, directory: string, passphrase: string, escrow = ''): Promise<Seen> {
    const script = path.join(directory, 'typed.sh');
    const words = {
      [TMPFS]: directory,
      'ESCROW=\n': `ESCROW=${escrow}\n`,
      '/mnt/nas': fixture.holdfast.repository(),
      'DOMAIN/BACKUP': backup.path,
      '/var/tmp/recovered': path.join(directory, 'recovered'),
    };
    await writeFile(script, page.allCommands(words));
    return onTerminal(script, QUESTION, passphrase);
  }

  for (const [kind, settings] of [
    ['plain', {}],
    ['compressed', compressed],
    ['encrypted', encrypted],
    ['compressed and encrypted', { ...compressed, ...encrypted }],
  ] as const) {
    it(`restores a backup by age, jq and qemu-img alone: ${kind}`, async () => {
      const { guest } = fixture;
      const backup = await take(settings);
      const directory = await mkdtemp(path.join(TMPFS, 'holdfast-recover-'));
      try {
        const { exitCode, screen } = await follow(backup, directory, PASSPHRASE);
        assert.equal(exitCode, 0, screen);
        assert.equal(screen.includes(QUESTION), 'nas.backup.encryption.enabled' in settings);
        assert.equal(screen.split(': whole').length - 1, guest.disks.length, screen);
        const recovered = path.join(directory, 'recovered');
        for (const disk of guest.disks)
          await requireSameContent(disk, {
            path: path.join(recovered, `${disk.target}.qcow2`),
            format: 'qcow2',
          });
        const xml = await readFile(path.join(recovered, 'domain.xml'), 'utf8');
        assert.match(xml, new RegExp(`<domain[^]*<name>${guest.name}</name>`));
        assert.deepEqual((await readdir(directory)).toSorted(), ['recovered', 'typed.sh']);
      } finally {
        await rm(directory, { recursive: true });
      }
    });
  }

  it('restores a backup whose key was rotated under another passphrase, and one with a passphrase of its own', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const own = 'nur für diese';
    const rotated = await take({ ...compressed, ...encrypted });
    const apart = await take({ ...encrypted, 'nas.backup.encryption.passphrase': own });
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'eine zweite' });
    const { keys } = client;
    const { operation } = await client.call(keys.rotateKey.bind(keys), { zone: 'z1', requestId: '' });
    succeeded(await client.follow(operation?.id ?? ''));
    for (const [backup, passphrase] of [
      [rotated, 'eine zweite'],
      [apart, own],
    ] as const) {
      const directory = await mkdtemp(path.join(TMPFS, 'holdfast-recover-'));
      try {
        const { exitCode, screen } = await follow(backup, directory, passphrase);
        assert.equal(exitCode, 0, screen);
        for (const disk of guest.disks) {
          const recovered = path.join(directory, 'recovered', `${disk.target}.qcow2`);
          await requireSameContent(disk, { path: recovered, format: 'qcow2' });
        }
      } finally {
        await rm(directory, { recursive: true });
      }
    }
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': PASSPHRASE });
  });

  it('restores a backup with an escrow key, without the passphrase', async () => {
    const { guest, holdfast } = fixture;
    const directory = await mkdtemp(path.join(TMPFS, 'holdfast-recover-'));
    try {
      const escrow = path.join(directory, 'escrow.key');
      await execa('age-keygen', ['-o', escrow]);
      const { stdout: recipient } = await execa('age-keygen', ['-y', escrow]);
      await holdfast.client.setSettings('z1', { 'nas.backup.encryption.escrow.recipients': recipient });
      const { exitCode, screen } = await follow(await take(encrypted), directory, '', escrow);
      assert.equal(exitCode, 0, screen);
      assert.ok(!screen.includes(QUESTION), screen);
      const [disk] = guest.disks;
      assert.ok(disk);
      const recovered = path.join(directory, 'recovered', `${disk.target}.qcow2`);
      await requireSameContent(disk, { path: recovered, format: 'qcow2' });
    } finally {
      await rm(directory, { recursive: true });
    }
  });

  it('gets nowhere with another passphrase, nor with a damaged file', async () => {
    const { holdfast } = fixture;
    const backup = await take(encrypted);
    const directory = await mkdtemp(path.join(TMPFS, 'holdfast-recover-'));
    try {
      const wrong = await follow(backup, directory, 'another');
      assert.notEqual(wrong.exitCode, 0);
      assert.match(wrong.screen, /incorrect passphrase/);

      await writeFile(path.join(holdfast.repository(), backup.path, 'domain.xml.age'), 'x', { flag: 'a' });
      const damaged = await follow(backup, directory, PASSPHRASE);
      assert.notEqual(damaged.exitCode, 0);
      assert.match(damaged.screen, /domain\.xml\.age: FAILED/);
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});

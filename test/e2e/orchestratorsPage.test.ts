import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { readFile, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { grpcTarget } from '@holdfast/common/address.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { filesDisk } from './support/guests.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

describe('the client in docs/orchestrators.md', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk], start: false } });
  let client: string;

  before(async () => {
    const page = await readFile(path.join(ROOT, 'docs/orchestrators.md'), 'utf8');
    const [, code] = /^```ts\n(.*?)^```$/ms.exec(page) ?? [];
    client = path.join(fixture.holdfast.directory, 'backup.ts');
    await writeFile(client, code ?? '');
    for (const name of ['node_modules', 'proto']) {
      await symlink(path.join(ROOT, name), path.join(path.dirname(client), name));
    }
  });

  const run = (...args: string[]) =>
    execa(process.execPath, [client, ...args], {
      cwd: path.dirname(client),
      reject: false,
      timeout: 60_000,
    });

  it('takes a backup through a controller that answers, once for a request id', async () => {
    const { guest, holdfast } = fixture;
    const nobody = `unix://${holdfast.directory}/nobody.sock`;
    const args = ['z1', guest.name, randomUUID(), nobody, grpcTarget(holdfast.controller.address)];
    const first = await run(...args);
    assert.equal(first.exitCode, 0, first.stdout + first.stderr);
    assert.match(first.stdout, /^trying again: /m);
    assert.match(first.stdout, /^1 accepted$/m);
    const [, backupId = ''] = /^backup (.+)$/m.exec(first.stdout) ?? [];
    assert.equal((await holdfast.client.getBackup(backupId)).domainName, guest.name);
    const again = await run(...args);
    assert.equal(again.exitCode, 0, again.stderr);
    assert.match(again.stdout, new RegExp(`^backup ${backupId}$`, 'm'));
  });

  it('ends with what is wrong', async () => {
    const address = grpcTarget(fixture.holdfast.controller.address);
    const { exitCode, stderr } = await run('z1', 'no such domain', randomUUID(), address);
    assert.equal(exitCode, 1);
    assert.match(stderr, /NOT_FOUND/);
  });
});

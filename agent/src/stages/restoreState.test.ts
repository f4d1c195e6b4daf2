import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { RestoreBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { openJournal, readJournal } from '../jobs/journal.ts';
import { undoLog } from '../jobs/undo.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { scriptedVirsh } from '../testing/virsh.ts';
import type { JobContext } from './context.ts';
import type { PublishedBackup } from './openBackup.ts';
import { prepareState, writeState, type RestoreState } from './restoreState.ts';

const openNone = (): never => {
  throw new Error('a restore has nothing to undo on a repository');
};

const UUID = '11111111-2222-3333-4444-555555555555';
const MANIFEST = Manifest.fromPartial({
  ...{ domainUuid: UUID, domainName: 'vm' },
  nvram: { file: { file: 'nvram.fd' } },
  tpm: { version: '2.0', state: { file: 'tpm2-00.permall' } },
});

describe("a restored domain's state", () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let context: JobContext;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    for (const name of ['images', 'runtime', 'lib', 'lib/qemu']) await mkdir(at(name));
    // What libvirt 9.0 prints, as far as it is looked at.
    const secret = `"id":"masterKey0","format":"raw","file":"${at('lib/qemu')}/domain--1-x/master-key.aes"`;
    const virsh = scriptedVirsh(([command]) => (command === 'domxml-to-native' ? { stdout: secret } : {}));
    const journal = await openJournal(at('journal'));
    const tools = { virsh, openRepository: openNone, tell: () => undefined };
    const undo = undoLog(journal, await readJournal(at('journal')), tools);
    // Only what these functions take of a job's context.
    context = {
      ...{ virsh, undo, journal, runtimeDirectory: at('runtime') },
      header: { jobId: 'job' },
    } as unknown as JobContext;
  });
  afterEach(async () => {
    await context.journal.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (...names: string[]): string => join(directory.path, ...names);
  const place = (uuid: string): string => at('lib/swtpm', uuid, 'tpm2/tpm2-00.permall');

  const prepare = async (
    request: Partial<RestoreBackupStart> = {},
    manifest = MANIFEST,
  ): Promise<{ state: RestoreState; warnings: string[] }> => {
    const start = RestoreBackupStart.fromPartial({ directory: at('images'), ...request });
    const savedFiles = new Map([
      ['nvram.fd', Buffer.from('variables')],
      ['tpm2-00.permall', Buffer.from('state')],
    ]);
    const backup: PublishedBackup = { manifest, secret: undefined, disks: [], savedFiles };
    const run = prepareState(context, start, backup);
    const warnings: string[] = [];
    for (;;) {
      const step = await run.next();
      if (step.done === true) return { state: step.value.result, warnings };
      if (step.value.$case === 'warning') warnings.push(step.value.value.reason);
    }
  };

  it('goes beside the disks and to where libvirt looks for it, and leaves nothing when it is undone', async () => {
    const { state, warnings } = await prepare();
    assert.deepEqual(warnings, []);
    assert.equal(state.nvram?.final, at('images/vm-nvram.fd'));
    assert.equal(state.tpm?.final, place(UUID));
    const { links } = await writeState(context, state);
    for (const { temporary } of links) assert.equal((await stat(temporary)).mode & 0o777, 0o600);
    assert.equal(await readFile(state.tpm.temporary, 'utf8'), 'state');
    // swtpm is another user.
    assert.equal((await stat(dirname(dirname(place(UUID))))).mode & 0o777, 0o711);
    assert.deepEqual(await context.undo.all(), []);
    assert.deepEqual(await readdir(at('images')), []);
    assert.deepEqual(await readdir(at('lib')), ['qemu']);
  });

  it('has a UUID of its own with a new name', async () => {
    const { state } = await prepare({ domainName: 'other' });
    assert.notEqual(state.domainUuid, UUID);
    assert.equal(state.tpm?.final, place(state.domainUuid));
    assert.equal(state.nvram?.final, at('images/other-nvram.fd'));
  });

  it('is left alone where it is, and put aside where another one is', async () => {
    await mkdir(dirname(place(UUID)), { recursive: true });
    const empty = await prepare();
    assert.equal(empty.state.tpm?.final, place(UUID));
    await writeFile(place(UUID), 'state');
    const same = await prepare();
    assert.deepEqual([same.state.tpm, same.state.tpmStatePath], [undefined, place(UUID)]);
    await writeFile(place(UUID), 'another');
    const aside = await prepare();
    assert.deepEqual(aside.warnings, ['TPM_STATE_ASIDE']);
    assert.equal(aside.state.tpm?.final, at('images/vm-tpm2-00.permall'));
  });

  it('is put aside where libvirt keeps a TPM of another version', async () => {
    await mkdir(at('lib/swtpm', UUID, 'tpm1.2'), { recursive: true });
    assert.deepEqual((await prepare()).warnings, ['TPM_STATE_ASIDE']);
  });

  it('is put aside when libvirt does not tell where it looks', async () => {
    context = { ...context, virsh: scriptedVirsh(() => ({ exitCode: 1 })) };
    const { state, warnings } = await prepare();
    assert.deepEqual(warnings, ['TPM_STATE_ASIDE']);
    assert.equal(state.tpmStatePath, at('images/vm-tpm2-00.permall'));
  });

  it('is not restored with single disks', async () => {
    const { state } = await prepare({ disks: ['vda'] });
    assert.deepEqual([state.nvram, state.tpm, state.tpmStatePath], [undefined, undefined, '']);
  });

  it('overwrites nothing, and is refused with a version that leads elsewhere', async () => {
    const odd = Manifest.fromPartial({ ...MANIFEST, tpm: { version: '../..', state: MANIFEST.tpm?.state } });
    await assert.rejects(prepare({}, odd), { reason: 'BACKUP_DAMAGED' });
    await writeFile(at('images/vm-nvram.fd'), '');
    await assert.rejects(prepare(), { reason: 'TARGET_EXISTS' });
  });
});

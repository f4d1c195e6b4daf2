import assert from 'node:assert/strict';
import { link, mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { RepositoryRef } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import { openRepository, withoutPassword } from '../repository/repository.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { scriptedRbd, type ScriptedRbd } from '../testing/rbd.ts';
import { scriptedVirsh } from '../testing/virsh.ts';
import { openJournal, readJournal, type Journal } from './journal.ts';
import { describeUndo, pendingUndo, undoLog, type UndoAction, type UndoLog, type UndoTools } from './undo.ts';

const toolsWith = (virsh: Virsh): UndoTools => ({
  virsh,
  openRepository: (ref) => openRepository(ref, { mountsDirectory: '/nowhere' }),
  tell: () => undefined,
});
const remove = (path: string): UndoAction => ({ kind: 'remove-local', path });

describe('an undo log', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let journal: Journal;
  let undo: UndoLog;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    journal = await openJournal(at('journal'));
    undo = undoLog(journal, [], toolsWith(scriptedVirsh()));
  });
  afterEach(async () => {
    await journal.close();
    await directory[Symbol.asyncDispose]();
  });
  const at = (name: string): string => join(directory.path, name);
  const names = async (): Promise<string[]> =>
    (await readdir(directory.path)).filter((name) => name !== 'journal');
  const pending = async (): Promise<UndoAction[]> =>
    pendingUndo(await readJournal(at('journal'))).map(({ action }) => action);

  it('undoes the latest first', async () => {
    const virsh = scriptedVirsh();
    const ordered = undoLog(journal, [], toolsWith(virsh));
    for (const domainUuid of ['a', 'b', 'c']) await ordered.promise({ kind: 'thaw', domainUuid });
    assert.deepEqual(await ordered.all(), []);
    assert.deepEqual(
      virsh.told.map((args) => args.join(' ')),
      ['domfsthaw c', 'domfsthaw b', 'domfsthaw a'],
    );
  });

  it('undoes the others when one fails, and says which', async () => {
    await writeFile(at('one'), '');
    await writeFile(at('two'), '');
    await undo.promise(remove(at('one')));
    const bad: UndoAction = {
      kind: 'remove-folder',
      repository: withoutPassword(RepositoryRef.fromPartial({ name: 'r', path: at('two') })),
      folder: 'x',
    };
    await undo.promise(bad);
    await undo.promise(remove(at('three')));
    const failed = await undo.all();
    assert.deepEqual(
      failed.map(({ action }) => action),
      [bad],
    );
    assert.deepEqual(await names(), ['two']);
    assert.deepEqual(await pending(), [bad]);
  });

  it('tries again what failed, after it was opened anew', async () => {
    const bad: UndoAction = {
      kind: 'remove-folder',
      repository: withoutPassword(RepositoryRef.fromPartial({ name: 'r', path: at('f') })),
      folder: 'x',
    };
    await writeFile(at('f'), '');
    await undo.promise(bad);
    assert.equal((await undo.all()).length, 1);
    await directory[Symbol.asyncDispose]();
    await mkdir(directory.path);
    await mkdir(at('f'));
    await mkdir(at('f/x'));
    const again = undoLog(journal, [{ kind: 'undo', id: 1, action: bad }], toolsWith(scriptedVirsh()));
    assert.deepEqual(await again.all(), []);
    assert.deepEqual(await readdir(at('f')), []);
  });

  it('leaves alone what was undone or has become part of the result', async () => {
    await writeFile(at('kept'), '');
    const kept = await undo.promise(remove(at('kept')));
    const gone = await undo.promise(remove(at('gone')));
    await gone.now();
    await writeFile(at('gone'), 'of another');
    await kept.forget();
    await gone.now();
    assert.deepEqual(await undo.all(), []);
    assert.deepEqual(await names(), ['gone', 'kept']);
  });

  it('is written down before it is needed, and gives new ids after it was opened anew', async () => {
    await undo.promise(remove(at('a')));
    assert.deepEqual(await pending(), [remove(at('a'))]);
    const again = undoLog(journal, await readJournal(at('journal')), toolsWith(scriptedVirsh()));
    await (await again.promise(remove(at('b')))).forget();
    assert.deepEqual(await pending(), [remove(at('a'))]);
  });

  it('releases its own lock only', async () => {
    await writeFile(at('lock'), 'another');
    await writeFile(at('mine'), 'me');
    await writeFile(at('mine.me'), 'me');
    for (const lock of ['lock', 'mine', 'none'])
      await undo.promise({ kind: 'release-lock', path: at(lock), owner: 'me' });
    assert.deepEqual(await undo.all(), []);
    assert.deepEqual(await names(), ['lock']);
    assert.equal(await readFile(at('lock'), 'utf8'), 'another');
  });

  it('takes back the names of its own files only', async () => {
    for (const name of ['ours.partial', 'theirs.partial', 'theirs', 'alone']) await writeFile(at(name), name);
    await link(at('ours.partial'), at('ours'));
    const links = ['ours', 'theirs', 'alone', 'none'].map((name) => ({
      temporary: at(`${name}.partial`),
      final: at(name),
    }));
    await undo.promise({ kind: 'unlink', links });
    assert.deepEqual(await undo.all(), []);
    assert.deepEqual((await names()).sort(), ['alone', 'ours.partial', 'theirs', 'theirs.partial']);
  });

  it('takes back empty folders only', async () => {
    for (const name of ['empty', 'full', 'full/inside']) await mkdir(at(name));
    for (const name of ['empty', 'full', 'none'])
      await undo.promise({ kind: 'remove-empty-folder', path: at(name) });
    assert.deepEqual(await undo.all(), []);
    assert.deepEqual(await names(), ['full']);
  });

  it('ends only the backup that offers its disks on its own socket', async () => {
    const xml = (socket: string): string =>
      `<domainbackup><server transport='unix' socket='${socket}'/></domainbackup>`;
    for (const [socket, aborted] of [
      ['/other', false],
      ['/mine', true],
    ] as const) {
      const virsh = scriptedVirsh((args) => ({ stdout: args[0] === 'backup-dumpxml' ? xml(socket) : '' }));
      const log = undoLog(journal, [], toolsWith(virsh));
      await log.promise({ kind: 'end-pull-backup', domainUuid: 'u', socket: '/mine' });
      assert.deepEqual(await log.all(), []);
      assert.equal(
        virsh.told.some(([command]) => command === 'domjobabort'),
        aborted,
      );
    }
  });

  it('does not take a libvirt that says nothing for one that has no backup', async () => {
    const virsh = scriptedVirsh(() => ({
      exitCode: 1,
      stderr: 'error: failed to connect to the hypervisor',
    }));
    const log = undoLog(journal, [], toolsWith(virsh));
    await log.promise({ kind: 'end-pull-backup', domainUuid: 'u', socket: '/mine' });
    assert.equal((await log.all()).length, 1);
  });

  it('thaws until the guest says so, unless the domain is gone', async () => {
    let refusals = 1;
    const stubborn = scriptedVirsh(([command]) =>
      command === 'domfsthaw' && refusals-- > 0 ? { exitCode: 1 } : { stdout: 'running' },
    );
    const off = scriptedVirsh(([command]) =>
      command === 'domfsthaw' ? { exitCode: 1 } : { stdout: 'shut off\n' },
    );
    for (const [virsh, thaws] of [
      [stubborn, 2],
      [off, 1],
    ] as const) {
      const log = undoLog(journal, [], toolsWith(virsh));
      await log.promise({ kind: 'thaw', domainUuid: 'u' });
      assert.deepEqual(await log.all(), []);
      assert.equal(virsh.told.filter(([command]) => command === 'domfsthaw').length, thaws);
    }
  });

  describe('of a Ceph cluster', () => {
    const image = {
      cluster: { monitors: [], user: '', secret: { uuid: 'u' }, confPath: '/c' },
      ...{ pool: 'p', namespace: '', name: 'i' },
    };
    const snapshotOf = (snapshot: string): UndoAction => ({
      ...{ kind: 'remove-rbd-snapshot', image, snapshot },
      directory: at('keys'),
    });
    let rbd: ScriptedRbd;
    beforeEach(async () => {
      rbd = await scriptedRbd(directory.path);
    });
    afterEach(() => {
      rbd[Symbol.dispose]();
    });
    const removed = async (): Promise<(string | undefined)[]> =>
      (await rbd.told()).filter((line) => / rm /.test(line)).map((line) => /p\/i\S*/.exec(line)?.[0]);

    it('removes snapshots, the latest first, and is content when one is gone', async () => {
      await undo.promise(snapshotOf('one'));
      await undo.promise(snapshotOf('two'));
      await rbd.answer('snap-rm', {
        exitCode: 2,
        stderr: 'rbd: failed to remove snapshot: (2) No such file',
      });
      assert.deepEqual(await undo.all(), []);
      assert.deepEqual(await removed(), ['p/i@two', 'p/i@one']);
      assert.deepEqual(await pending(), []);
    });

    it('keeps the promise of a snapshot whose cluster refuses or hangs, and keeps it when it is opened anew', async () => {
      await undo.promise(snapshotOf('one'));
      for (const stderr of ['(1) Operation not permitted', '(110) Connection timed out']) {
        await rbd.answer('snap-rm', {
          exitCode: 1,
          stderr: `rbd: couldn't connect to the cluster: ${stderr}`,
        });
        assert.deepEqual(
          (await undo.all()).map(({ action }) => describeUndo(action)),
          ['remove the snapshot one of RBD image p/i'],
        );
        assert.deepEqual(await pending(), [snapshotOf('one')]);
      }
      await rbd.answer('snap-rm', {});
      const again = undoLog(journal, await readJournal(at('journal')), toolsWith(scriptedVirsh()));
      assert.deepEqual(await again.all(), []);
      assert.deepEqual(await pending(), []);
    });

    it('removes an image only as long as it is the one that was made', async () => {
      await rbd.answer('info', { stdout: '{"id":"7","size":1}' });
      for (const id of ['8', '7', undefined]) {
        await undo.promise({ kind: 'remove-rbd-image', image, id, directory: at('keys') });
        assert.deepEqual(await undo.all(), []);
      }
      assert.deepEqual(await removed(), ['p/i', 'p/i']);
    });
  });

  it('says in words what it could not do', () => {
    assert.equal(
      describeUndo({
        kind: 'remove-folder',
        repository: withoutPassword(RepositoryRef.fromPartial({ name: 'nas', path: '/x' })),
        folder: 'f.partial',
      }),
      'remove f.partial from repository nas',
    );
  });
});

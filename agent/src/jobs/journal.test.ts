import assert from 'node:assert/strict';
import { appendFile, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { openJournal, readJournal, type JournalEntry } from './journal.ts';

const undone = (id: number): JournalEntry => ({ kind: 'undone', id });

describe('a journal', () => {
  it('has no entries when it is not there', async () => {
    await using directory = await temporaryDirectory();
    assert.deepEqual(await readJournal(join(directory.path, 'none')), []);
  });

  it('keeps the order of appends that were not waited for, each on a line of its own', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'journal');
    const journal = await openJournal(path);
    const entries = Array.from({ length: 200 }, (_each, id) => undone(id));
    await Promise.all(entries.map((entry) => journal.append(entry)));
    await journal.close();
    assert.deepEqual(await readJournal(path), entries);
    assert.equal((await readFile(path, 'utf8')).split('\n').length, 201);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
  });

  it('loses nothing but a line that a crash cut off, wherever it was cut', async () => {
    await using directory = await temporaryDirectory();
    const torn = JSON.stringify({ kind: 'undone', id: 2 });
    for (let length = 0; length < torn.length; length++) {
      const path = join(directory.path, `journal-${length}`);
      const first = await openJournal(path);
      await first.append(undone(1));
      await first.close();
      await appendFile(path, torn.slice(0, length));
      assert.deepEqual(await readJournal(path), [undone(1)]);
      const second = await openJournal(path);
      await second.append(undone(3));
      await second.close();
      assert.deepEqual(await readJournal(path), [undone(1), undone(3)]);
    }
  });

  it('closes after the appends that are under way', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'journal');
    const journal = await openJournal(path);
    const appended = journal.append(undone(1));
    await Promise.all([appended, journal.close()]);
    assert.deepEqual(await readJournal(path), [undone(1)]);
    await assert.rejects(journal.append(undone(2)));
  });
});

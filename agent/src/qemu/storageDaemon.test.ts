import assert from 'node:assert/strict';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '@holdfast/common/bytes.ts';
import { silentLogger, type Logger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { processesWithArgument } from '../process/identity.ts';
import { threadsOf, type ThreadState } from '../process/threads.ts';
import { never, rawSource, realDaemon } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { nudgeStorageDaemon, startStorageDaemon, stopStorageDaemon } from './storageDaemon.ts';
import { connectQmp, QmpError } from './qmp.ts';

async function daemonsIn(directory: string): Promise<readonly number[]> {
  const path = join(directory, 'qmp.sock').replaceAll(',', ',,');
  return processesWithArgument(`socket,id=monitor,path=${path},server=on,wait=off`);
}

async function pidIn(directory: string): Promise<number> {
  const [pid] = await daemonsIn(directory);
  assert.ok(pid !== undefined);
  return pid;
}

describe('qemu-storage-daemon', () => {
  it('starts and stops in a directory with commas and spaces', async () => {
    await using directory = await temporaryDirectory();
    const odd = join(directory.path, 'a,b c="d"');
    await mkdir(odd);
    const daemon = await startStorageDaemon(odd, silentLogger, never);
    assert.equal((await daemonsIn(odd)).length, 1);
    await daemon.quit();
    assert.deepEqual(await daemonsIn(odd), []);
    await stopStorageDaemon(odd);
  });

  it('is ended even when it is stopped, by KILL', async () => {
    await using directory = await temporaryDirectory();
    const daemon = await startStorageDaemon(directory.path, silentLogger, never);
    process.kill(await pidIn(directory.path), 'SIGSTOP');
    await stopStorageDaemon(directory.path);
    assert.deepEqual(await daemonsIn(directory.path), []);
    daemon.qmp.close();
  });

  it('refuses a command with its own sentence, and goes on', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const { qmp } = real.daemon;
    const add = { driver: 'file', filename: join(directory.path, 'none'), 'node-name': 'f' };
    await assert.rejects(qmp.execute('blockdev-add', add), (error: unknown) => {
      return error instanceof QmpError && /No such file/.test(error.description);
    });
    assert.deepEqual(await qmp.execute('query-jobs'), []);
  });

  it('fails every command that waits when it is killed, and every one after', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const pid = await pidIn(directory.path);
    process.kill(pid, 'SIGSTOP');
    const waiting = [real.daemon.jobs(), real.daemon.writtenBytes()];
    process.kill(pid, 'SIGKILL');
    for (const command of waiting) await assert.rejects(command, { reason: 'QEMU_FAILED' });
    await assert.rejects(real.daemon.jobs(), { reason: 'QEMU_FAILED' });
  });

  it('tells where its threads are when it does not answer in time', async () => {
    await using directory = await temporaryDirectory();
    const warned: unknown[] = [];
    const logger: Logger = { ...silentLogger, warn: (_message, meta) => warned.push(meta) };
    const daemon = await startStorageDaemon(directory.path, logger, never);
    const pid = await pidIn(directory.path);
    process.kill(pid, 'SIGSTOP');
    await assert.rejects(daemon.qmp.execute('query-jobs', {}, 50), { reason: 'QEMU_FAILED' });
    process.kill(pid, 'SIGKILL');
    const [{ command, threads } = {}] = warned as { command: string; threads: readonly ThreadState[] }[];
    assert.equal(command, 'query-jobs');
    assert.deepEqual(
      threads?.filter(({ id }) => id === pid).map(({ name, state }) => [name, state]),
      [['qemu-storage-da', 'T']],
    );
    await stopStorageDaemon(directory.path);
    daemon.qmp.close();
  });

  it('is woken by a nudge, in its main loop and its monitors, and goes on', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const pid = await pidIn(directory.path);
    const wakings = async (): Promise<readonly number[]> => {
      const threads = await threadsOf(pid);
      const counts = threads.map(async ({ id }) => {
        const status = await readFile(`/proc/${pid}/task/${id}/status`, 'utf8');
        return Number(/^voluntary_ctxt_switches:\s*(\d+)/m.exec(status)?.[1]);
      });
      return await Promise.all(counts);
    };
    const before = await wakings();
    await nudgeStorageDaemon(directory.path);
    const isAwake = async (): Promise<boolean> => {
      const now = await wakings();
      // The main loop is the first thread, that of the monitors the last.
      return [0, before.length - 1].every((index) => (now[index] ?? 0) > (before[index] ?? Infinity));
    };
    while (!(await isAwake()));
    for (let count = 0; count < 20; count++) await nudgeStorageDaemon(directory.path);
    assert.deepEqual(await real.daemon.jobs(), []);
  });

  it('has answered in time when its answer only waits to be read', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const answer = real.daemon.qmp.execute('query-jobs', {}, 50);
    // Longer than the daemon may take, so that the deadline is over when the answer is read.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
    assert.deepEqual(await answer, []);
  });

  it('keeps answers and commands together however many are sent at once', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const { qmp } = real.daemon;
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_each, index) =>
        index % 2 === 0 ? qmp.execute('query-jobs') : qmp.execute('query-version').then(() => 'version'),
      ),
    );
    answers.forEach((answer, index) => assert.deepEqual(answer, index % 2 === 0 ? [] : 'version'));
  });

  it('creates images, and says why it cannot', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const { daemon } = real;
    const filename = join(directory.path, 'i, "j".qcow2');
    await writeFile(filename, '');
    await daemon.qmp.execute('blockdev-add', { driver: 'file', filename, 'node-name': 'f' });
    await daemon.create('c1', { driver: 'qcow2', file: 'f', size: MIB }, never);
    await assert.rejects(daemon.create('c2', { driver: 'qcow2', file: 'f', size: 1 }, never), {
      name: 'QmpError',
      message: /multiple of 512/,
    });
    assert.deepEqual(await daemon.jobs(), []);
    const cancelled = AbortSignal.abort(new Error('cancelled'));
    await assert.rejects(
      daemon.create('c3', { driver: 'qcow2', file: 'f', size: MIB }, cancelled),
      /cancelled/,
    );
  });

  it('gives a secret away as long as it has it, and not after', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const { daemon } = real;
    await daemon.addSecret('s', new Secret('pass, "word" ö'));
    await assert.rejects(daemon.addSecret('s', new Secret('again')), { name: 'QmpError' });
    await daemon.removeSecret('s');
    await assert.rejects(daemon.qmp.execute('qom-get', { path: '/objects/s', property: 'data' }));
  });

  it('says what it has written, node by node', async () => {
    await using directory = await temporaryDirectory();
    await using real = await realDaemon(directory.path);
    const { daemon } = real;
    await rawSource(join(directory.path, 'source'));
    for (const name of ['source', 'target']) {
      const filename = join(directory.path, name);
      if (name === 'target') await writeFile(filename, Buffer.alloc(8 * MIB));
      await daemon.qmp.execute('blockdev-add', { driver: 'file', filename, 'node-name': name });
    }
    await daemon.qmp.execute('blockdev-backup', {
      ...{ 'job-id': 'b', device: 'source', target: 'target', sync: 'full', 'auto-dismiss': false },
    });
    while ((await daemon.jobs()).some(({ status }) => status !== 'concluded'));
    assert.equal((await daemon.writtenBytes()).get('target'), 8 * MIB);
    const [job] = await daemon.jobs();
    assert.deepEqual([job?.progressBytes, job?.totalBytes, job?.error], [8 * MIB, 8 * MIB, undefined]);
  });

  it('that does not come up is given up', async () => {
    await using directory = await temporaryDirectory();
    await assert.rejects(
      connectQmp(join(directory.path, 'none.sock'), silentLogger, AbortSignal.timeout(300)),
      { name: 'TimeoutError' },
    );
  });
});

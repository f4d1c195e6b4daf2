import assert from 'node:assert/strict';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { join } from 'node:path';
import { silentLogger } from '@holdfast/common/logger.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { connectQmp } from './qmp.ts';

describe('a connection to a monitor', () => {
  it('that is never answered is given up for the next one', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'qmp.sock');
    let connections = 0;
    const server = createServer((socket) => {
      const answers = ++connections > 1;
      createInterface({ input: socket }).on('line', (line) => {
        const { id } = JSON.parse(line) as { id: number };
        if (answers) socket.write(`${JSON.stringify({ return: {}, id })}\n`);
      });
    }).listen(path);
    await once(server, 'listening');
    const qmp = await connectQmp(path, silentLogger, AbortSignal.timeout(10_000), { greetingMs: 50 });
    assert.deepEqual(await qmp.execute('query-status'), {});
    assert.equal(connections, 2);
    qmp.close();
    server.close();
  });

  it('nudges as long as a command has no answer', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'qmp.sock');
    let answer = (): void => undefined;
    const server = createServer((socket) => {
      createInterface({ input: socket }).on('line', (line) => {
        const { id, execute } = JSON.parse(line) as { id: number; execute: string };
        const reply = (): void => void socket.write(`${JSON.stringify({ return: {}, id })}\n`);
        if (execute === 'query-status') answer = reply;
        else reply();
      });
    }).listen(path);
    await once(server, 'listening');
    let nudges = 0;
    const nudge = (): void => {
      if (++nudges === 3) answer();
    };
    const qmp = await connectQmp(path, silentLogger, AbortSignal.timeout(10_000), {
      nudge,
      nudgeEveryMs: 500,
    });
    assert.deepEqual(await qmp.execute('query-status'), {});
    assert.equal(nudges, 3);
    qmp.close();
    server.close();
  });

  it('tells of a command that is not answered in time', async () => {
    await using directory = await temporaryDirectory();
    const path = join(directory.path, 'qmp.sock');
    const server = createServer((socket) => {
      createInterface({ input: socket }).on('line', (line) => {
        const { id, execute } = JSON.parse(line) as { id: number; execute: string };
        if (execute !== 'query-status') socket.write(`${JSON.stringify({ return: {}, id })}\n`);
      });
    }).listen(path);
    await once(server, 'listening');
    const late: string[] = [];
    const onLate = async (command: string): Promise<void> => {
      await Promise.resolve();
      late.push(command);
    };
    const qmp = await connectQmp(path, silentLogger, AbortSignal.timeout(10_000), { onLate });
    await assert.rejects(qmp.execute('query-status', {}, 50), { message: /query-status within 50 ms/ });
    assert.deepEqual(late, ['query-status']);
    qmp.close();
    server.close();
  });
});

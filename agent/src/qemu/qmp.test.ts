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
    const qmp = await connectQmp(path, silentLogger, AbortSignal.timeout(10_000), () => false, 50);
    assert.deepEqual(await qmp.execute('query-status'), {});
    assert.equal(connections, 2);
    qmp.close();
    server.close();
  });
});

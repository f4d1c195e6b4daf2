import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { processesWithArgument, signalProcess } from './identity.ts';

describe('processes by their argument', () => {
  it('are found, ended by a signal, and not found any more', async () => {
    const argument = randomUUID();
    // It starts no other program: until that is running, it would have the same arguments.
    const child = spawn('sh', ['-c', 'echo up; read line', argument]);
    const ended = once(child, 'exit');
    await once(child.stdout, 'data');
    const pids = await processesWithArgument(argument);
    assert.deepEqual(pids, [child.pid]);
    for (const pid of pids) signalProcess(pid, 'SIGKILL');
    assert.deepEqual(await ended, [null, 'SIGKILL']);
    assert.deepEqual(await processesWithArgument(argument), []);
    // It was listed a moment ago, and ended before its signal came.
    for (const pid of pids) signalProcess(pid, 'SIGTERM');
  });

  it('cannot be signalled: that is an error, unless they have ended', () => {
    assert.throws(() => {
      signalProcess(process.pid, 'SIGNONE' as NodeJS.Signals);
    }, /SIGNONE/);
  });
});

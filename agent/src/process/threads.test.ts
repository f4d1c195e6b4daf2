import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { threadsOf } from './threads.ts';

describe('the threads of a process', () => {
  it('are named, with their state and where in the kernel they wait', async () => {
    const child = spawn('sleep', ['60'], { stdio: 'ignore' });
    await once(child, 'spawn');
    const { pid } = child;
    assert.ok(pid !== undefined);
    try {
      const deadline = Date.now() + 10_000;
      for (;;) {
        const [thread, ...others] = await threadsOf(pid);
        assert.deepEqual([thread?.id, others], [pid, []]);
        if (thread?.name === 'sleep' && thread.kernelStack.some((called) => called.includes('nanosleep'))) {
          assert.equal(thread.state, 'S');
          break;
        }
        assert.ok(Date.now() < deadline, JSON.stringify(thread));
        await sleep(20);
      }
    } finally {
      child.kill('SIGKILL');
      await once(child, 'close');
    }
    assert.deepEqual(await threadsOf(pid), []);
  });
});

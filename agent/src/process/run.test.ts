import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { processesWithArgument } from './identity.ts';
import { ProgramFailed, run } from './run.ts';

const DEADLINE_MS = 10_000;

/** A shell that starts a grandchild which holds its standard output, and waits. Both have `mark` as an argument. */
const stubborn = (mark: string): string[] => ['-c', 'sh -c "sleep 60; :" sh "$1" & wait', 'sh', mark];

async function gone(mark: string): Promise<void> {
  while ((await processesWithArgument(mark)).length > 0) await new Promise(setImmediate);
}

describe('running a program', () => {
  it('gives its output and its exit code, whatever that is', async () => {
    const result = await run('sh', ['-c', 'printf "out\\n"; printf err >&2; exit 3'], {
      deadlineMs: DEADLINE_MS,
    });
    assert.deepEqual(result, { exitCode: 3, stdout: 'out\n', stderr: 'err' });
  });

  it('gives its arguments to it as they are', async () => {
    const odd = ['a b', `"'`, '$HOME', '--', 'ö\n', ''];
    const { stdout } = await run('printf', ['[%s]', ...odd], { deadlineMs: DEADLINE_MS });
    assert.equal(stdout, odd.map((each) => `[${each}]`).join(''));
  });

  it('ends it at its deadline, with all that it started', async () => {
    const mark = randomUUID();
    await assert.rejects(run('sh', stubborn(mark), { deadlineMs: 500 }), {
      name: 'ProgramFailed',
      message: /within 500 ms/,
    });
    await gone(mark);
  });

  it('ends it when it is cancelled, with all that it started', async () => {
    const mark = randomUUID();
    const cancelled = new AbortController();
    const running = run('sh', stubborn(mark), { deadlineMs: DEADLINE_MS, signal: cancelled.signal });
    while ((await processesWithArgument(mark)).length < 2) await new Promise(setImmediate);
    cancelled.abort(new Error('cancelled'));
    await assert.rejects(running, { message: 'cancelled' });
    await gone(mark);
  });

  it('says which program is not there or was killed, and no argument but the first', async () => {
    for (const [file, args] of [
      ['holdfast-no-such-program', ['verb', 'tell-nobody']],
      ['sh', ['-c', 'kill -9 $$', 'tell-nobody']],
    ] as const) {
      await assert.rejects(
        run(file, args, { deadlineMs: DEADLINE_MS }),
        (error: unknown) =>
          error instanceof ProgramFailed &&
          error.message.includes(file) &&
          !error.message.includes('tell-nobody'),
      );
    }
  });
});

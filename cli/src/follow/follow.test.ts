import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { Operation, OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { run } from '../run.ts';
import { accepted, begun, deleted, failed, finished, progress } from '../testing/events.ts';
import { fakeTerminal, type FakeTerminal, type FakeTerminalOptions } from '../testing/fake-terminal.ts';
import { scriptedController, type ScriptedController, type Step } from '../testing/scripted-controller.ts';

const { STAGE_PREPARE } = Stage;

describe('following an operation', () => {
  let controller: ScriptedController | undefined;
  afterEach(() => controller?.close());

  async function watch(
    scripts: readonly (readonly Step[])[],
    argv: readonly string[] = ['watch', 'op-1'],
    terminal: FakeTerminal = fakeTerminal(),
    operation?: Operation,
  ): Promise<{ code: number; terminal: FakeTerminal; controller: ScriptedController }> {
    controller = await scriptedController(scripts, operation);
    const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
    const code = await run(['--controller', controller.address, ...argv], { terminal, loadParts });
    return { code, terminal, controller };
  }

  const head = [accepted(1, STAGE_PREPARE), begun(2, STAGE_PREPARE)];
  const tail = [finished(3, STAGE_PREPARE, { elapsedMs: 340n }), deleted(4)];

  it('prints plain lines and the result', async () => {
    const { code, terminal } = await watch([[...head, ...tail]]);
    assert.equal(code, 0, terminal.printed.err);
    assert.equal(
      terminal.printed.out,
      'accepted: prepare\nprepare: started\nprepare: done  in 340ms\nDeleted; 1.0 KiB freed.\n',
    );
  });

  it('prints each event as a line of JSON and nothing else', async () => {
    const { code, terminal } = await watch([[...head, ...tail]], ['--json', 'watch', 'op-1']);
    assert.equal(code, 0);
    const events = terminal.printed.out
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as object);
    assert.deepEqual(
      events.map((each) => Object.keys(each).at(-1)),
      ['accepted', 'stageStarted', 'stageFinished', 'completed'],
    );
    assert.equal(terminal.printed.err, '');
  });

  it('takes up a broken stream after the last event, without repeating any', async () => {
    const shutdown = new HoldfastError('SHUTTING_DOWN', 'bye');
    const late = progress(2, STAGE_PREPARE, { processedBytes: 5n, totalBytes: 10n, elapsedMs: 1n });
    const { code, terminal, controller } = await watch([
      [...head, shutdown],
      [shutdown],
      [...head, late, ...tail],
    ]);
    assert.equal(code, 0, terminal.printed.err);
    assert.deepEqual(
      controller.watched.map(({ afterSequence }) => afterSequence),
      [0n, 2n, 2n],
    );
    assert.equal(
      terminal.printed.out,
      'accepted: prepare\nprepare: started\nprepare: 50.0%  5 B\nprepare: done  in 340ms\nDeleted; 1.0 KiB freed.\n',
    );
    assert.match(terminal.printed.err, /broke; trying again\.\n.*back/);
    assert.equal(controller.correlationIds.size, 1);
  });

  it('takes up a stream that ended too early', async () => {
    const { code, controller } = await watch([head, tail]);
    assert.equal(code, 0);
    assert.equal(controller.watched[1]?.afterSequence, 2n);
  });

  it('does not take a refusal for a broken stream', async () => {
    const { code, controller } = await watch([[new HoldfastError('OPERATION_NOT_FOUND', 'no')]]);
    assert.equal(code, 3);
    assert.equal(controller.watched.length, 1);
  });

  it('ends as the operation did, although its last event was not asked for', async () => {
    const operation = Operation.fromPartial({
      id: 'op-1',
      state: OperationState.OPERATION_STATE_FAILED,
      error: { code: 15, message: 'broken' },
    });
    const { code, controller } = await watch(
      [[]],
      ['watch', 'op-1', '--after', '9'],
      fakeTerminal(),
      operation,
    );
    assert.equal(code, 1);
    assert.equal(controller.watched[0]?.afterSequence, 9n);
  });

  it('ends with the exit code and the reason of a failed operation', async () => {
    const full = new HoldfastError('REPOSITORY_FULL', 'The repository nas1 is full.');
    const { code, terminal } = await watch([[...head, failed(3, full)]]);
    assert.equal(code, 7);
    assert.equal(terminal.printed.err, 'holdfast: The repository nas1 is full. [REPOSITORY_FULL]\n');
  });

  it('follows a backup that it starts', async () => {
    const { code, terminal, controller } = await watch(
      [[...head, ...tail]],
      ['backup', 'vm1', '--zone', 'z'],
    );
    assert.equal(code, 0);
    assert.equal(terminal.printed.err, 'Operation op-1 on domain vm1\n');
    assert.equal(controller.correlationIds.size, 1);
  });

  /** Interrupts when the operation has begun, and lets it end only when `until` is true. */
  function interrupted(
    options: FakeTerminalOptions,
    signal: 'SIGINT' | 'SIGTERM',
    until: () => boolean,
  ): { terminal: FakeTerminal; steps: Step[] } {
    const terminal = fakeTerminal(options);
    const steps = [
      ...head,
      async () => {
        // The first event must have arrived: before it nobody follows yet.
        while (terminal.printed.out === '' && terminal.printed.drawn.length === 0) await turn();
        terminal.interrupt(signal);
        while (!until()) await turn();
      },
      ...tail,
    ];
    return { terminal, steps };
  }

  it('leaves the operation running at an interrupt when nobody can be asked', async () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { terminal, steps } = interrupted({}, signal, () => terminal.printed.err !== '');
      const { code, controller } = await watch([steps], ['watch', 'op-1'], terminal);
      assert.equal(code, 130);
      assert.match(
        terminal.printed.err,
        /op-1 goes on\. Follow it with: holdfast .* watch op-1; cancel it with: /,
      );
      assert.deepEqual(controller.cancelled, []);
      await controller.close();
    }
  });

  it('asks on a terminal, and leaves it running unless told otherwise', async () => {
    for (const answers of [['leave'], []]) {
      const { terminal, steps } = interrupted(
        { isTerminal: true, answers },
        'SIGINT',
        () => terminal.printed.err !== '',
      );
      const { code, controller } = await watch([steps], ['watch', 'op-1'], terminal);
      assert.equal(code, 130);
      assert.equal(terminal.asked.length, 1);
      assert.deepEqual(controller.cancelled, []);
      await controller.close();
    }
  });

  it('cancels when told so, and follows to the end', async () => {
    const { terminal, steps } = interrupted(
      { isTerminal: true, answers: ['cancel'] },
      'SIGINT',
      () => controller?.cancelled.length === 1,
    );
    const cancelled = failed(3, new HoldfastError('CANCELLED', 'Cancelled on request.'));
    const { code } = await watch([[...steps.slice(0, 3), cancelled]], ['watch', 'op-1'], terminal);
    assert.equal(code, 8);
  });

  it('goes on watching when told so', async () => {
    const { terminal, steps } = interrupted(
      { isTerminal: true, answers: ['watch'] },
      'SIGINT',
      () => terminal.asked.length === 1,
    );
    const { code } = await watch([steps], ['watch', 'op-1'], terminal);
    assert.equal(code, 0);
    assert.match(terminal.printed.drawn.at(-1) ?? '', /prepare .*done/);
    assert.match(terminal.printed.out, /Deleted/);
  });
});

function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { filesDisk } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { nothingLeft } from './support/nothingLeft.ts';

const STOPPER = path.join(import.meta.dirname, 'support/stopper.ts');
/** As the product has it. */
const LIMIT_MS = 15_000;

/** The agent's runners stop in the middle of the freeze, before the snapshot of the disks. */
describe('a guest that is frozen', () => {
  const fixture = useHoldfast({
    guest: { disks: [filesDisk], writerMiBPerSecond: 1 },
    holdfast: {
      agents: [
        {
          zone: 'z1',
          env: { NODE_OPTIONS: `--import=${STOPPER}`, HOLDFAST_TEST_STOP_AT: 'backup-begin' },
        },
      ],
    },
  });
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  const status = () => fixture.guest.command('guest-fsfreeze-status');
  /** Starts a backup, and returns with the guest frozen and the runner stopped. */
  const frozen = async (quiesce: string): Promise<{ id: string; runner: number }> => {
    const { guest, holdfast } = fixture;
    const { id } = await holdfast.client.startBackup({
      zone: 'z1',
      domain: guest.name,
      settings: { 'nas.backup.quiesce': quiesce },
    });
    const runner = await until('The runner stops', 30_000, async () => {
      const runners = (await processesNaming(id)).filter(({ argv }) => argv[1]?.endsWith('/runner.ts'));
      const pid = runners[0]?.pid;
      if (pid === undefined) return undefined;
      return /^State:\tT/m.test(await readFile(`/proc/${pid}/status`, 'utf8')) ? pid : undefined;
    });
    return { id, runner };
  };
  const thawed = (milliseconds: number): Promise<number> => {
    const startMs = performance.now();
    return until('The guest is thawed', milliseconds, async () =>
      (await status()) === 'thawed' ? performance.now() - startMs : undefined,
    );
  };
  /** A write to the disk, which would wait for ever in a frozen file system. */
  const writes = () => fixture.guest.exec(['sh', '-c', 'date >/data/after.txt; sync']);

  it('is thawed within seconds when agent and runner are killed at once', async () => {
    const { agent, client } = fixture.holdfast;
    const { id, runner } = await frozen('required');
    assert.equal(await status(), 'frozen');
    await agent.kill();
    process.kill(runner, 'SIGKILL');
    await thawed(5_000);
    await writes();
    // Nobody else was there to do it.
    assert.equal(agent.pid(), 0);
    await agent.start();
    assert.equal(failed(await client.follow(id)).reason, 'RUNNER_DIED');
  });

  it('is thawed as soon as its agent answers again, when that hangs as the others are killed', async () => {
    const { guest, holdfast } = fixture;
    const { agent, client } = holdfast;
    // The file is there a moment before the agent answers.
    const hang =
      'until [ -e /run/qga.state.isfrozen ]; do sleep 1; done; sleep 2; kill -STOP $1; sleep 12; kill -CONT $1';
    await guest.exec(['sh', '-c', `sh -c '${hang}' sh "$(pidof qemu-ga)" >/dev/null 2>&1 </dev/null &`]);
    const { id, runner } = await frozen('required');
    await until('The guest agent hangs', 30_000, () =>
      status().then(
        () => undefined,
        () => true,
      ),
    );
    await agent.kill();
    process.kill(runner, 'SIGKILL');
    await until('The guest is thawed', 60_000, () =>
      status().then(
        (found) => (found === 'thawed' ? true : undefined),
        () => undefined,
      ),
    );
    await writes();
    await agent.start();
    assert.equal(failed(await client.follow(id)).reason, 'RUNNER_DIED');
  });

  for (const quiesce of ['required', 'best-effort']) {
    it(`is thawed after ${LIMIT_MS / 1_000} s though its runner hangs: ${quiesce}`, async () => {
      const { client } = fixture.holdfast;
      const { id, runner } = await frozen(quiesce);
      assert.equal(await status(), 'frozen');
      await thawed(LIMIT_MS + 5_000);
      await writes();
      process.kill(runner, 'SIGCONT');
      const followed = await client.follow(id);
      if (quiesce === 'required') {
        const { reason, message } = failed(followed);
        assert.deepEqual([reason, /thawed after 15 s/.test(message)], ['QUIESCE_FAILED', true]);
      } else {
        const operation = succeeded(followed);
        assert.equal(operation.state, OperationState.OPERATION_STATE_SUCCEEDED);
        assert.deepEqual(
          operation.warnings.map(({ reason }) => reason),
          ['NOT_QUIESCED'],
        );
        assert.equal((await client.getBackup(operation.backupId)).quiesced, false);
      }
    });
  }
});

import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { startHoldfast, type Holdfast } from '../harness/holdfast.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { startLab, type Lab } from '../lab/lab.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from './support/nothingLeft.ts';
import { killable, killedAt, writePlan, type KillPlan } from './support/plan.ts';

/** `make faults` takes every step, `make test` one of five. */
const isFull = process.env['HOLDFAST_FAULTS'] === 'all';
const STRIDE = isFull ? 1 : 5;
/** More steps than any job has: a test that gets there would never end. */
const MANY = 100;
const everything = {
  'nas.backup.compression.enabled': 'true',
  'nas.backup.encryption.enabled': 'true',
  'nas.backup.encryption.passphrase': 'correct horse battery staple',
  'nas.backup.integrity.check': 'true',
};

describe(`a backup that is killed at ${isFull ? 'every step' : 'one step of five'}`, function () {
  this.timeout(600_000);
  const stack = new AsyncDisposableStack();
  let lab: Lab;
  let holdfast: Holdfast;
  let plan: string;
  before(async () => {
    const directory = await mkdtemp(path.join(tmpdir(), 'holdfast-plan-'));
    stack.defer(() => rm(directory, { recursive: true }));
    plan = path.join(directory, 'plan.json');
    await writePlan(plan, { at: 'journal', step: MANY, victims: '' });
    lab = stack.use(await startLab());
    holdfast = stack.use(await startHoldfast(lab, { agents: [{ zone: 'z1', env: killable(plan) }] }));
  });
  after(() => stack.disposeAsync());

  /** One backup under a plan; the step at which it was killed, or undefined when it was through before. */
  async function attempt(
    guest: Guest,
    settings: Record<string, string>,
    how: KillPlan,
  ): Promise<string | undefined> {
    const { client, agent } = holdfast;
    await writePlan(plan, how);
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.uuid, settings });
    if (how.victims !== '') {
      await until('the kill, or the end', 60_000, async () => {
        if (agent.pid() === 0) return true;
        const { endTime } = await client.getOperation(id);
        return endTime !== undefined ? true : undefined;
      });
      if (agent.pid() === 0) await agent.start();
    }
    const followed = await client.follow(id);
    const { operation } = followed;
    const step = await killedAt(plan);
    const where = `${how.at} ${how.step}: ${step ?? 'not killed'}`;
    const folders = await readdir(path.join(holdfast.repository(), guest.uuid)).catch(() => []);
    if (operation.state === OperationState.OPERATION_STATE_SUCCEEDED) {
      assert.equal(folders.length, 1, where);
      succeeded(await client.verifyBackup({ backupId: operation.backupId }));
      succeeded(await client.deleteBackup(operation.backupId));
    } else {
      assert.ok(step !== undefined, `${where}: ${failed(followed).message}`);
      assert.equal(failed(followed).reason, 'RUNNER_DIED', where);
      assert.deepEqual(folders, [], where);
    }
    await nothingLeft(lab, holdfast);
    return step;
  }

  it('of the runner: everything is undone, and the guest goes on', async () => {
    const guest = await lab.guest({
      disks: [{ target: 'vda', sizeBytes: 48 * MiB, content: { kind: 'files', fileBytes: 4 * MiB } }],
      writerMiBPerSecond: 1,
    });
    await guest.waitReady();
    const settings = { 'nas.backup.quiesce': 'required', 'nas.backup.integrity.check': 'true' };
    let step = 1;
    while ((await attempt(guest, settings, { at: 'journal', step, victims: '' })) !== undefined) {
      assert.equal(await guest.command('guest-fsfreeze-status'), 'thawed', `entry ${step}`);
      await guest.writeFile('/data/after.txt', String(step));
      step += STRIDE;
      assert.ok(step < MANY);
    }
    assert.ok(step > 15, `only ${step} entries`);
    await guest.destroy();
  });

  for (const at of ['before', 'after'] as const) {
    it(`of the repository, ${at} it, agent, runner and QEMU at once: it is there whole or not at all`, async () => {
      const guest = await lab.guest({
        disks: [{ target: 'vda', sizeBytes: 4 * MiB, content: { kind: 'random' } }],
        start: false,
      });
      const victims = holdfast.agent.directory;
      const met: string[] = [];
      for (let step = 1; step < MANY; step += STRIDE) {
        // Written by the first backup that finds none: so that every attempt takes the same steps.
        await rm(path.join(holdfast.repository(), 'zone-keys'), { recursive: true, force: true });
        const killed = await attempt(guest, everything, { at, step, victims });
        if (killed === undefined) break;
        met.push(killed);
      }
      assert.ok(met.length > 0);
      if (!isFull) return;
      for (const operation of ['createFile', 'syncFile', 'writeFile', 'syncFolder', 'renameFolder'])
        assert.ok(met.includes(`${at} ${operation}`), `${operation} was not met: ${met.join()}`);
    });
  }
});

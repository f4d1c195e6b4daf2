import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { access, mkdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { grpcTarget } from '@holdfast/common/address.ts';
import { signalProcess } from '@holdfast/agent/process/identity.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  leftoverKindToJSON,
  LeftoverState,
  ListLeftoversResponse,
  type Leftover,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, watch } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { until } from '../lab/deadline.ts';
import { isStart } from './support/events.ts';
import { filesDisk, restingDisk, slowly } from './support/guests.ts';

const PROGRAM = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');
const { LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_REMOVED } = LeftoverState;

describe('holdfast doctor', () => {
  const fixture = useHoldfast({
    lab: { mounts: 'shared' },
    // libvirt pushes the first 64 MiB of a disk before it takes a limit.
    guest: { disks: [filesDisk, restingDisk(160)], writerMiBPerSecond: 1 },
    holdfast: { agents: [{ zone: 'z1' }, { zone: 'z1' }] },
  });

  const doctor = async (
    ...argv: string[]
  ): Promise<{ readonly code: number | undefined; readonly answer: ListLeftoversResponse }> => {
    const address = grpcTarget(fixture.holdfast.controller.address);
    const result = await execa(PROGRAM, ['--controller', address, '--json', 'doctor', ...argv], {
      reject: false,
    });
    return { code: result.exitCode, answer: ListLeftoversResponse.fromJSON(JSON.parse(result.stdout)) };
  };
  const kinds = (leftovers: readonly Leftover[], state: LeftoverState): string[] =>
    leftovers
      .filter((each) => each.state === state)
      .map(({ kind }) => leftoverKindToJSON(kind).replace('LEFTOVER_KIND_', ''))
      .sort();

  /** Starts a backup and takes from it, in its middle, all that would clean up; `spared` processes live on. */
  async function wreck(settings: Record<string, string>, spared: string): Promise<string> {
    const { guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const request = { zone: 'z1', domain: guest.name, host: agent.hostName };
    const { id } = await client.startBackup({ ...request, settings: { ...slowly, ...settings } });
    await watch(client.operations, id, 0n, async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      await agent.kill();
      for (const { pid, argv } of await processesNaming(id)) {
        // The guest's own QEMU may name the job's socket.
        if (argv[0]?.includes('qemu-system') === true || (spared !== '' && argv[0] === spared)) continue;
        signalProcess(pid, 'SIGKILL');
      }
      await rm(path.join(agent.stateDirectory, 'jobs', id), { recursive: true });
      await agent.start();
    });
    assert.equal(failed(await client.follow(id)).reason, 'RUNNER_DIED');
    return id;
  }

  /** Things beside the leftovers that are not Holdfast's, or not this agent's. */
  async function strangers(): Promise<readonly string[]> {
    const { agent, repository } = fixture.holdfast;
    const files = [
      path.join(agent.scratchDirectory, 'films', 'holiday.qcow2'),
      path.join(repository(), 'films', 'holiday.partial', 'part.mkv'),
      path.join(repository(), randomUUID(), `20260101T000000Z-${randomUUID()}.partial`, 'vda.qcow2'),
    ];
    for (const file of files) {
      await mkdir(path.dirname(file), { recursive: true });
      await writeFile(file, 'precious');
    }
    return files;
  }

  it('finds and removes all that a backup has left whose processes and journal are gone, and nothing else', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client, agents } = holdfast;
    assert.deepEqual(await doctor(), { code: 0, answer: { leftovers: [], problems: [] } });
    const neighbour = await lab.guest({ disks: [{ ...filesDisk, target: 'vda' }] });
    await neighbour.waitReady();
    const wrecked = await wreck({}, '');
    await guest.freeze();
    // As from a job of Holdfast that is dead, and as somebody else makes them; the disk that is raw can have none.
    const checkpoints = [`holdfast-${wrecked}`, 'nightly'];
    for (const name of checkpoints)
      await lab.virsh([
        'checkpoint-create-as',
        guest.uuid,
        name,
        '--diskspec',
        'vda',
        '--diskspec',
        'vdb,checkpoint=no',
      ]);
    const precious = await strangers();
    // At work meanwhile: its processes, sockets and partial folder are on the same machine and in the same repository.
    const [, other] = agents;
    const { id: living } = await client.startBackup({
      ...{ zone: 'z1', domain: neighbour.name, host: other?.hostName ?? '' },
      settings: { 'nas.backup.bandwidth.limit.mbps': '1' },
    });
    await until('The other backup is under way', 30_000, async () =>
      (await client.listLeftovers()).leftovers.some(({ reason }) => reason.includes(living))
        ? true
        : undefined,
    );
    const pauseLiving = async (paused: boolean): Promise<void> => {
      const update = client.operations.updateOperation.bind(client.operations);
      await client.call(update, { operationId: living, change: { $case: 'paused', value: paused } });
    };
    // It must be there however long the looking takes.
    await pauseLiving(true);

    const listed = await doctor();
    assert.equal(listed.code, 9);
    const removable = listed.answer.leftovers.filter(({ state }) => state === LEFTOVER_STATE_REMOVABLE);
    assert.deepEqual(kinds(removable, LEFTOVER_STATE_REMOVABLE), [
      // Whose job it was is for the controller to say, so that both agents of this libvirt tell of it.
      ...['CHECKPOINT', 'CHECKPOINT', 'FROZEN_GUEST', 'LIBVIRT_JOB', 'LOCK', 'PARTIAL_BACKUP', 'SCRATCH'],
      ...['SOCKET_DIRECTORY', 'SOCKET_DIRECTORY'],
    ]);
    // Listing changes nothing, but what is at work goes on.
    const again = await doctor();
    const names = (leftovers: readonly Leftover[]): string[] =>
      leftovers.map(({ kind, name }) => `${kind} ${name}`).sort();
    assert.deepEqual(names(again.answer.leftovers), names(listed.answer.leftovers));
    assert.equal(await guest.command('guest-fsfreeze-status'), 'frozen');

    const removed = await doctor('--remove');
    assert.equal(removed.code, 0);
    // The agent that comes second to the checkpoint may find it gone, and does not answer for it then.
    const gone = removed.answer.leftovers.filter(({ state }) => state === LEFTOVER_STATE_REMOVED);
    assert.deepEqual([...new Set(names(gone))], [...new Set(names(removable))]);
    const kept = removed.answer.leftovers.filter(({ state }) => state === LEFTOVER_STATE_KEPT);
    for (const { reason } of kept) assert.notEqual(reason, '');
    for (const file of precious) {
      await access(file);
      assert.ok(
        kept.some(({ name }) => file.includes(name)),
        file,
      );
    }
    assert.equal(await guest.command('guest-fsfreeze-status'), 'thawed');
    assert.equal((await lab.virsh(['checkpoint-list', guest.uuid, '--name'])).trim(), 'nightly');
    await lab.virsh(['checkpoint-delete', guest.uuid, 'nightly']);
    await pauseLiving(false);
    succeeded(await client.follow(living));

    const [inScratch = '', ...inRepository] = precious;
    await rm(path.dirname(inScratch), { recursive: true });
    for (const file of inRepository) await rm(path.dirname(path.dirname(file)), { recursive: true });
    assert.deepEqual(await doctor(), { code: 0, answer: { leftovers: [], problems: [] } });
    await nothingLeft(lab, holdfast);
    succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, host: agents[0]?.hostName ?? '' }));
  });

  it('ends a push backup before the daemons that the guest writes through', async () => {
    const { lab, guest, holdfast } = fixture;
    await wreck({ 'nas.backup.transport': 'push' }, 'qemu-storage-daemon');
    const listed = await doctor('--host', holdfast.agent.hostName);
    assert.deepEqual(kinds(listed.answer.leftovers, LEFTOVER_STATE_REMOVABLE), [
      ...['LIBVIRT_JOB', 'LOCK', 'MOUNT', 'MOUNT', 'PROCESS', 'PROCESS'],
      ...['SOCKET_DIRECTORY', 'SOCKET_DIRECTORY'],
    ]);
    // While a process may write to it, its folder stays.
    const folder = await doctor('--repository', 'nas-z1', '--remove');
    assert.deepEqual(kinds(folder.answer.leftovers, LEFTOVER_STATE_KEPT), ['PARTIAL_BACKUP']);
    const removed = await doctor('--remove');
    assert.equal(removed.code, 0);
    assert.equal(kinds(removed.answer.leftovers, LEFTOVER_STATE_REMOVED).length, 9);
    await guest.writeFile('/data/after.txt', 'still here');
    await nothingLeft(lab, holdfast);
  });
});

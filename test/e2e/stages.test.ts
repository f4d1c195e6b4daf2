import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded, watch } from '../harness/follow.ts';
import { kindsOf, requireNoGaps, withoutProgress } from './support/events.ts';
import { filesDisk } from './support/guests.ts';

describe('stages and their events', () => {
  const fixture = useHoldfast({ guest: { disks: [filesDisk] } });

  it('come in order and without gaps, and can be watched again from any of them', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    await client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'long enough to be one' });
    const settings = {
      'nas.backup.compression.enabled': 'true',
      'nas.backup.encryption.enabled': 'true',
      'nas.backup.integrity.check': 'true',
      'nas.backup.quiesce': 'required',
    };
    const followed = await client.takeBackup({ zone: 'z1', domain: guest.uuid, settings });
    const operation = succeeded(followed);
    const { events } = followed;
    requireNoGaps(events);
    const [S, F] = ['stageStarted', 'stageFinished'];
    assert.deepEqual(kindsOf(events), [
      ...['accepted', S, F, S, F, S, S, S, F, F, F, S, F, S, F, S, F, 'completed'],
    ]);
    const plan = [
      ...[Stage.STAGE_PREPARE, Stage.STAGE_QUIESCE, Stage.STAGE_BLOCKJOB, Stage.STAGE_CONVERT],
      ...[Stage.STAGE_ENCRYPT, Stage.STAGE_DIGEST, Stage.STAGE_CHECK, Stage.STAGE_PUBLISH],
    ];
    const [accepted] = events;
    assert.equal(accepted?.event?.$case, 'accepted');
    assert.deepEqual(accepted.event.value.stages, plan);
    const started = events.flatMap(({ event }) =>
      event?.$case === 'stageStarted' ? [event.value.stage] : [],
    );
    assert.deepEqual(started, plan);
    const times = events.map(({ time }) => time?.getTime() ?? 0);
    assert.deepEqual(
      times,
      times.toSorted((left, right) => left - right),
    );

    assert.equal(operation.lastSequence, events.at(-1)?.sequence);
    for (const after of [0n, 5n, operation.lastSequence - 1n, operation.lastSequence]) {
      const again = withoutProgress(await watch(client.operations, operation.id, after));
      assert.deepEqual(
        again.map(({ sequence }) => sequence),
        withoutProgress(events)
          .map(({ sequence }) => sequence)
          .filter((sequence) => sequence > after),
      );
    }
  });

  it('give figures that fit together', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const followed = await client.takeBackup({
      zone: 'z1',
      domain: guest.name,
      settings: { 'nas.backup.compression.enabled': 'true' },
    });
    const backup = await client.getBackup(succeeded(followed).backupId);
    const figures = new Map(
      followed.events.flatMap(({ event }) =>
        event?.$case === 'stageFinished' ? [[event.value.stage, event.value.figures] as const] : [],
      ),
    );
    const read = figures.get(Stage.STAGE_BLOCKJOB);
    const formed = figures.get(Stage.STAGE_CONVERT);
    assert.ok(read && formed);
    assert.equal(read.processedBytes, read.totalBytes);
    assert.equal(read.totalBytes, backup.virtualSizeBytes);
    assert.equal(read.inputBytes, backup.dataBytes);
    assert.ok(backup.dataBytes < backup.virtualSizeBytes, 'holes are not data');
    assert.ok(formed.outputBytes < read.outputBytes, 'this machine’s files can be compressed');
    assert.ok(backup.storedBytes <= formed.outputBytes * 2n && backup.storedBytes > 0n);
  });

  it('carry one correlation id from the call to QEMU’s runner', async () => {
    const { guest, holdfast } = fixture;
    const { client, agent, controller } = holdfast;
    const correlationId = 'from-the-orchestrator-4711';
    const { id } = await client.startBackup({ zone: 'z1', domain: guest.name }, correlationId);
    const operation = succeeded(await client.follow(id));
    assert.equal(operation.correlationId, correlationId);
    for (const log of [
      await controller.log(),
      await agent.log(),
      await readFile(path.join(agent.stateDirectory, 'jobs', id, 'runner.log'), 'utf8'),
    ]) {
      const lines = log
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as { correlationId?: string });
      assert.ok(lines.some((line) => line.correlationId === correlationId));
    }
  });
});

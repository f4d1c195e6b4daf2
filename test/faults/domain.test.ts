import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { utimes, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { connectTo } from '@holdfast/common/client.ts';
import { fromServiceError, fromStatus } from '@holdfast/common/errors.ts';
import {
  AgentServiceClient,
  TakeBackupRequest,
  type TakeBackupResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { isStart, requireNoGaps } from '../e2e/support/events.ts';
import { restingDisk, slowly } from '../e2e/support/guests.ts';
import { requireSameContent } from '../e2e/support/images.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import type { Guest } from '../lab/guest.ts';
import { MiB } from '../lab/spec.ts';
import { nothingLeft } from './support/nothingLeft.ts';

describe('a domain that changes while it is backed up', () => {
  const fixture = useHoldfast({ guest: { disks: [restingDisk(24)], agent: false, start: false } });
  afterEach(async () => {
    const { guest, lab, holdfast } = fixture;
    if ((await guest.state()) !== 'shut off') await guest.destroy();
    await nothingLeft(lab, holdfast);
  });
  /** Takes a backup, and does something each time that it has begun to copy, for as many times as there are acts. */
  const during = (...acts: (() => Promise<void>)[]): Promise<Followed> =>
    fixture.holdfast.client.takeBackup(
      { zone: 'z1', domain: fixture.guest.uuid, settings: slowly },
      (event) => (isStart(event, Stage.STAGE_CONVERT) ? acts.shift()?.() : undefined),
    );
  /** The backup succeeded at the second try, and says so. */
  async function requireSecondTry(followed: Followed): Promise<Manifest> {
    const operation = succeeded(followed);
    assert.deepEqual(
      operation.warnings.map(({ reason }) => reason),
      ['DOMAIN_STARTED'],
    );
    requireNoGaps(followed.events);
    const starts = followed.events.filter((event) => isStart(event, Stage.STAGE_PREPARE));
    assert.equal(starts.length, 2);
    assert.ok(operation.stages.every(({ finished }) => finished));
    const { manifest } = await fixture.holdfast.client.getBackup(operation.backupId);
    assert.ok(manifest);
    return manifest;
  }

  it('by a start is backed up as it runs then, and the start is not held up', async () => {
    const { guest, holdfast } = fixture;
    const followed = await during(() => guest.start());
    const manifest = await requireSecondTry(followed);
    assert.equal(await guest.state(), 'running');
    assert.equal(manifest.domainRunning, true);
    assert.equal(manifest.transport, 'pull');
    const { client, restoreDirectory, agent } = holdfast;
    const { backupId } = succeeded(followed);
    const request = { backupId, host: agent.hostName, directory: await restoreDirectory() };
    const result = succeeded(await client.restoreBackup(request)).result?.result;
    assert.equal(result?.$case, 'restore');
    const [source] = guest.disks;
    const [copy] = result.value.disks;
    assert.ok(source && copy);
    await requireSameContent(source, copy);
  });

  it('by a start and a stop is backed up as it is off again', async () => {
    const { guest } = fixture;
    const followed = await during(async () => {
      await guest.start();
      await guest.destroy();
    });
    const manifest = await requireSecondTry(followed);
    assert.equal(manifest.domainRunning, false);
    assert.equal(manifest.transport, 'direct');
  });

  it('by a start each time is DOMAIN_STARTED', async () => {
    const { guest } = fixture;
    const startAndStop = async (): Promise<void> => {
      await guest.start();
      await guest.destroy();
    };
    assert.equal(failed(await during(startAndStop, startAndStop)).reason, 'DOMAIN_STARTED');
  });

  it('by a start into a pause is DOMAIN_STARTED, as it cannot be backed up so', async () => {
    const { guest } = fixture;
    const followed = await during(async () => {
      await guest.start();
      await guest.suspend();
    });
    assert.equal(failed(followed).reason, 'DOMAIN_STARTED');
  });

  it('by whoever else writes to its image is IMAGE_CHANGED', async () => {
    const [disk] = fixture.guest.disks;
    const image = disk?.path ?? '';
    const error = failed(await during(() => utimes(image, new Date(), new Date())));
    assert.equal(error.reason, 'IMAGE_CHANGED');
    assert.ok(error.message.includes(image), error.message);
  });

  it('by nothing is backed up', async () => {
    const { client } = fixture.holdfast;
    succeeded(await client.takeBackup({ zone: 'z1', domain: fixture.guest.uuid }));
  });
});

describe('a domain that is shut off on two hosts', () => {
  const fixture = useHoldfast({
    guest: { disks: [restingDisk(24)], agent: false, start: false },
    holdfast: { agents: [{ zone: 'z1' }, { zone: 'z1' }] },
  });

  it('is backed up by one of them, as both see the same disk, unless it is written to', async () => {
    const { client } = fixture.holdfast;
    const request = { zone: 'z1', domain: fixture.guest.uuid };
    const { hostReason } = succeeded(await client.takeBackup(request));
    assert.match(hostReason, /^The domain is shut off and known to .*, .* Of 2 least busy hosts/);
    const image = fixture.guest.disks[0]?.path ?? '';
    const followed = await client.takeBackup({ ...request, settings: slowly }, (event) =>
      isStart(event, Stage.STAGE_CONVERT) ? utimes(image, new Date(), new Date()) : undefined,
    );
    assert.equal(failed(followed).reason, 'IMAGE_CHANGED');
    await nothingLeft(fixture.lab, fixture.holdfast);
  });
});

describe('a domain in no state for a backup', () => {
  const fixture = useHoldfast({
    guest: { disks: [restingDisk(24)], agent: false, start: false },
  });
  const refused = async (guest: Guest): Promise<void> => {
    const { lab, holdfast } = fixture;
    for (const domain of [guest.name, guest.uuid]) {
      await assert.rejects(holdfast.client.startBackup({ zone: 'z1', domain }), {
        reason: 'DOMAIN_STATE',
        code: 9,
      });
    }
    assert.equal((await throughAgent(guest)).at(-1), 'DOMAIN_STATE');
    await nothingLeft(lab, holdfast);
  };
  /** What the agent itself says to a backup: the kinds of its events, the reason in the place of `failed`. */
  async function throughAgent(guest: Guest): Promise<string[]> {
    const { holdfast } = fixture;
    const { address, zone } = holdfast.agent;
    const client = connectTo(AgentServiceClient, address);
    const call = client.takeBackup();
    const value = {
      header: { jobId: randomUUID(), zone, fencingEpoch: 1_000n, correlationId: 'direct', host: '' },
      backupId: randomUUID(),
      domain: guest.uuid,
      repository: { name: 'nas-z1', path: holdfast.repository() },
      options: { bandwidthLimitMibps: 4n, quiesce: 'off' },
    };
    call.write(TakeBackupRequest.fromPartial({ message: { $case: 'start', value } }));
    const kinds: string[] = [];
    try {
      for await (const { event } of call as AsyncIterable<TakeBackupResponse>) {
        kinds.push(kindOf(event));
        if (kinds.at(-1) === 'completed' || event?.event?.$case === 'failed') break;
      }
    } catch (error) {
      throw fromServiceError(error);
    } finally {
      call.end();
      client.close();
    }
    return kinds;
  }

  it('that is paused is refused', async () => {
    const { guest } = fixture;
    await guest.start();
    await guest.suspend();
    await refused(guest);
    await guest.destroy();
  });

  it('that has crashed is refused', async () => {
    const { lab } = fixture;
    const { path: image = '' } = await lab.disk({ target: 'hda', format: 'raw', sizeBytes: MiB });
    // mov dx, 0x505; mov al, 1; out dx, al; hlt: the port of the pvpanic device (QEMU, docs/specs/pvpanic.rst).
    const bootSector = Buffer.alloc(512);
    bootSector.write('ba0505b001eef4', 'hex');
    bootSector.writeUInt16BE(0x55aa, 510);
    await writeFile(image, bootSector, { flag: 'r+' });
    const guest = await lab.define(
      `<domain type='qemu'><name>crashing</name><uuid>${randomUUID()}</uuid><memory unit='MiB'>64</memory><vcpu>1</vcpu>
       <os><type arch='x86_64' machine='pc'>hvm</type></os><on_crash>preserve</on_crash>
       <devices><disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='${image}'/>
       <target dev='hda' bus='ide'/></disk><panic model='isa'/></devices></domain>`,
    );
    await guest.start();
    await until('The guest has crashed', 30_000, async () =>
      (await guest.state()) === 'crashed' ? true : undefined,
    );
    await refused(guest);
    await guest.destroy();
  });

  it('that is being backed up by another is DOMAIN_BUSY at the agent too', async () => {
    const { holdfast, guest, lab } = fixture;
    const first = await holdfast.client.takeBackup(
      { zone: 'z1', domain: guest.uuid, settings: slowly },
      async (event) => {
        if (isStart(event, Stage.STAGE_CONVERT))
          assert.equal((await throughAgent(guest)).at(-1), 'DOMAIN_BUSY');
      },
    );
    succeeded(first);
    await nothingLeft(lab, holdfast);
  });

  it('that libvirt itself backs up is DOMAIN_BUSY, and that backup is left alone', async () => {
    const { holdfast, guest, lab } = fixture;
    await guest.start();
    // A pull backup offers its disks until it is ended.
    const file = path.join(holdfast.directory, 'own.xml');
    await writeFile(
      file,
      "<domainbackup mode='pull'><server transport='unix' socket='/run/own.sock'/></domainbackup>",
    );
    await lab.virsh(['backup-begin', guest.uuid, file]);
    const error = failed(await holdfast.client.takeBackup({ zone: 'z1', domain: guest.uuid }));
    assert.equal(error.reason, 'DOMAIN_BUSY');
    assert.match(await lab.virsh(['backup-dumpxml', guest.uuid]), /domainbackup/);
    await guest.destroy();
    await nothingLeft(lab, holdfast);
  });
});

function kindOf(event: OperationEvent | undefined): string {
  const what = event?.event;
  return what?.$case === 'failed' ? fromStatus(what.value).reason : (what?.$case ?? '');
}

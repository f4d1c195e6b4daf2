import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { connectTo } from '@holdfast/common/client.ts';
import { fromServiceError, fromStatus } from '@holdfast/common/errors.ts';
import {
  AgentServiceClient,
  TakeBackupRequest,
  type TakeBackupResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import { isStart } from '../e2e/support/events.ts';
import { restingDisk, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded } from '../harness/follow.ts';
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
  const during = (act: () => Promise<void>): Promise<string> =>
    fixture.holdfast.client
      .takeBackup({ zone: 'z1', domain: fixture.guest.uuid, settings: slowly }, (event) =>
        isStart(event, Stage.STAGE_CONVERT) ? act() : undefined,
      )
      .then((followed) => failed(followed).reason);

  it('by a start is DOMAIN_STARTED, and the start is not held up', async () => {
    assert.equal(await during(() => fixture.guest.start()), 'DOMAIN_STARTED');
    assert.equal(await fixture.guest.state(), 'running');
  });

  it('by a start and a stop is DOMAIN_STARTED too, though it is off in the end', async () => {
    const { guest } = fixture;
    const reason = await during(async () => {
      await guest.start();
      await guest.destroy();
    });
    assert.equal(reason, 'DOMAIN_STARTED');
  });

  it('by nothing is backed up', async () => {
    const { client } = fixture.holdfast;
    succeeded(await client.takeBackup({ zone: 'z1', domain: fixture.guest.uuid }));
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
      header: { jobId: randomUUID(), zone, fencingEpoch: 1_000n, correlationId: 'direct' },
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

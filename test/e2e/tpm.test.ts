import assert from 'node:assert/strict';
import { appendFile, readdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { useHoldfast } from '../harness/fixture.ts';
import { succeeded } from '../harness/follow.ts';
import type { Guest } from '../lab/guest.ts';
import { filesDisk } from './support/guests.ts';
import { restoreResult, warnings } from './support/restored.ts';

/**
 * Commands of TPM 2.0 (TPM 2.0 Library, part 3) under the owner's empty password, with index 0x01800001: define it with
 * eight bytes, write "holdfast" to it, read it.
 */
const PASSWORD_SESSION = '00000009' + '40000009' + '0000' + '01' + '0000';
const NV_DEFINE_SPACE = `8002 0000002d 0000012a 40000001 ${PASSWORD_SESSION} 0000 000e 01800001 000b 02040004 0000 0008`;
const NV_WRITE = `8002 0000002b 00000137 01800001 01800001 ${PASSWORD_SESSION} 0008 ${Buffer.from('holdfast').toString('hex')} 0000`;
const NV_READ = `8002 00000023 0000014e 01800001 01800001 ${PASSWORD_SESSION} 0008 0000`;

/** Sends a command to the guest's TPM. Returns its answer; throws when it is not TPM_RC_SUCCESS. */
async function tell(guest: Guest, command: string): Promise<Buffer> {
  const base64 = Buffer.from(command.replaceAll(' ', ''), 'hex').toString('base64');
  const script = `exec 3<>/dev/tpm0; echo ${base64} | base64 -d >&3; dd bs=4096 count=1 <&3 2>/dev/null | base64`;
  const { stdout, stderr } = await guest.exec(['/bin/sh', '-c', script]);
  const answer = Buffer.from(stdout, 'base64');
  if (answer.length < 10 || answer.readUInt32BE(6) !== 0)
    throw new Error(`The TPM answered ${answer.toString('hex')} ${stderr}`);
  return answer;
}

describe('a domain with an emulated TPM', () => {
  const fixture = useHoldfast({
    guest: {
      disks: [filesDisk],
      extraDevicesXml: "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
    },
    holdfast: { agents: [{ zone: 'z1', inside: true }] },
  });
  /** Where libvirt keeps the states, as seen from here, and as it is inside. */
  const states = (): string => path.join(fixture.lab.directory, 'lib/swtpm');
  const stateOf = (uuid: string): string => path.join(states(), uuid, 'tpm2/tpm2-00.permall');
  const seenInside = (uuid: string): string => `/var/lib/libvirt/swtpm/${uuid}/tpm2/tpm2-00.permall`;

  before(async () => {
    const { guest, holdfast } = fixture;
    await tell(guest, NV_DEFINE_SPACE);
    await tell(guest, NV_WRITE);
    await holdfast.client.setSettings('z1', { 'nas.backup.encryption.passphrase': 'for the backups' });
  });

  it('comes back with what the guest kept in it, under a new name beside the original', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    const settings = { 'nas.backup.encryption.enabled': 'true' };
    const taken = await client.takeBackup({ zone: 'z1', domain: guest.name, settings });
    const { backupId } = succeeded(taken);
    assert.deepEqual(warnings(taken), ['TPM_STATE_LIVE']);
    const { tpm } = (await client.getBackup(backupId)).manifest ?? {};
    assert.deepEqual(
      [tpm?.version, tpm?.model, tpm?.secretUuid, tpm?.state?.file],
      ['2.0', 'tpm-crb', '', 'tpm2-00.permall.age'],
    );

    const directory = await holdfast.restoreDirectory();
    const request = { backupId, host: 'host-1', directory, domainName: 'second' };
    const restoring = await client.restoreBackup(request);
    const { domainXmlPath, tpmStatePath } = restoreResult(restoring);
    assert.deepEqual(warnings(restoring), []);
    const restored = await lab.define(await readFile(domainXmlPath, 'utf8'));
    assert.equal(tpmStatePath, seenInside(restored.uuid));
    assert.deepEqual((await readdir(states())).toSorted(), [guest.uuid, restored.uuid].toSorted());

    await guest.destroy();
    await restored.start();
    await restored.waitReady();
    assert.match((await tell(restored, NV_READ)).toString('latin1'), /holdfast/);
    await restored.destroy();
  });

  it('comes back on a host that lost it, and keeps a state that is there', async () => {
    const { lab, guest, holdfast } = fixture;
    const { client } = holdfast;
    assert.equal(await guest.state(), 'shut off');
    const original = await readFile(stateOf(guest.uuid));
    const taken = await client.takeBackup({ zone: 'z1', domain: guest.name });
    const { backupId } = succeeded(taken);
    assert.deepEqual(warnings(taken), []);
    const restore = async (): ReturnType<typeof client.restoreBackup> =>
      client.restoreBackup({ backupId, host: 'host-1', directory: await holdfast.restoreDirectory() });

    const same = await restore();
    assert.deepEqual(warnings(same), []);
    assert.equal(restoreResult(same).tpmStatePath, seenInside(guest.uuid));

    await appendFile(stateOf(guest.uuid), 'later');
    const occupied = await restore();
    assert.deepEqual(warnings(occupied), ['TPM_STATE_ASIDE']);
    const { tpmStatePath, domainXmlPath } = restoreResult(occupied);
    assert.equal(tpmStatePath, domainXmlPath.replace(/\.xml$/, '-tpm2-00.permall'));
    assert.ok(original.equals(await readFile(tpmStatePath)));
    assert.match(await readFile(stateOf(guest.uuid), 'latin1'), /later$/);

    await lab.virsh(['undefine', guest.uuid, '--tpm']);
    await rm(path.join(states(), guest.uuid), { recursive: true, force: true });
    const lost = await restore();
    assert.deepEqual(warnings(lost), []);
    assert.ok(original.equals(await readFile(stateOf(guest.uuid))));
    const restored = await lab.define(await readFile(restoreResult(lost).domainXmlPath, 'utf8'));
    assert.equal(restored.uuid, guest.uuid);
    await restored.start();
    await restored.waitReady();
    assert.match((await tell(restored, NV_READ)).toString('latin1'), /holdfast/);
    await restored.destroy();
  });
});

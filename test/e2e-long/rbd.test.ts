import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { failed, succeeded } from '../harness/follow.ts';
import { until } from '../lab/deadline.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { isStart } from '../e2e/support/events.ts';
import { cephxXml, defineCephSecret } from '../e2e/support/rbd.ts';
import { SAME_CLUSTER, SLOWLY, useRbdVolumes } from '../e2e/support/rbdVolumes.ts';

/** Ceph takes its time to refuse a key, and to be missed. */
describe('volumes on RBD, when Ceph', () => {
  const fixture = useRbdVolumes();
  const { define, noTrace, request, snapshots } = fixture;

  it('takes another key, or does not answer, are refused before anything is made', async () => {
    const { ceph, holdfast, lab, one } = fixture;
    const { client } = holdfast;
    const wrong = await defineCephSecret(lab, 'vm', 'AQBQ4QVrTEtuCRAAUDZXK5c0Sm8B5e7fiNGqiw==');
    await define(one, cephxXml(ceph, 'vm', wrong));
    const refused = failed(await client.takeBackup(request()));
    assert.deepEqual(
      [refused.reason, /client\.vm/.test(refused.message)],
      ['VOLUME_REFUSED', true],
      refused.message,
    );
    await define();
    ceph.pause();
    try {
      const error = failed(await client.takeBackup(request()));
      assert.equal(error.reason, 'VOLUME_STALLED', error.message);
    } finally {
      ceph.resume();
    }
    await noTrace();
  });

  it('takes the key back in the middle end the job with that reason, and are cleaned up when it is given again', async () => {
    const { ceph, holdfast, lab, one } = fixture;
    const { client } = holdfast;
    const { backupId } = succeeded(await client.takeBackup(request()));
    const place = {
      backupId,
      host: 'host-1',
      domainName: 'second',
      directory: await holdfast.restoreDirectory(),
    };
    const { result } =
      succeeded(await client.restoreBackup({ ...place, rbd: { ...SAME_CLUSTER, pool: 'other' } })).result ??
      {};
    assert.equal(result?.$case, 'restore');
    const restored = await lab.define(await readFile(result.value.domainXmlPath, 'utf8'));
    await restored.start();
    await restored.waitReady();
    const keyring = path.join(ceph.directory, 'vm.again');
    await ceph.ceph(['auth', 'get', 'client.vm', '-o', keyring]);
    const revoked = await client.takeBackup(request(SLOWLY), async (event) => {
      if (!isStart(event, Stage.STAGE_BLOCKJOB)) return;
      await ceph.ceph(['auth', 'rm', 'client.vm']);
      // A connection outlives its key; so now and then one breaks, as connections do.
      await ceph.ceph(['tell', 'osd.0', 'config', 'set', 'ms_inject_socket_failures', '20']);
    });
    const error = failed(revoked);
    assert.deepEqual(
      [error.reason, /client\.vm/.test(error.message)],
      ['VOLUME_REFUSED', true],
      error.message,
    );
    const warnings = revoked.events.flatMap(({ event }) =>
      event?.$case === 'warning' ? [event.value.message] : [],
    );
    assert.ok(
      warnings.some((text) => text.includes(`snapshot`) && text.includes(one)),
      warnings.join('\n'),
    );
    await ceph.ceph(['tell', 'osd.0', 'config', 'set', 'ms_inject_socket_failures', '0']);
    await nothingLeft(lab, holdfast);
    await ceph.ceph(['auth', 'import', '-i', keyring]);
    // Nobody removes a snapshot without a key: it is removed when the agent starts.
    await holdfast.agent.kill('SIGKILL');
    await holdfast.agent.start();
    await until('The snapshots are removed', 60_000, async () =>
      (await snapshots()).length === 0 ? true : undefined,
    );
    // A guest that waited for the key meanwhile goes on.
    await restored.writeFile('/data/after.txt', 'Written after the key was given again.');
    assert.equal((await restored.exec(['/bin/sync'])).exitCode, 0);
    assert.equal(await restored.state(), 'running');
    await noTrace();
  });
});

import assert from 'node:assert/strict';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  DeleteBackupRequest,
  RestoreBackupRequest,
  VerifyBackupRequest,
} from '@holdfast/proto/holdfast/v1/backup.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  AddRepositoryRequest,
  RepositoryState,
  RepositoryType,
  type GetRepositoryResponse,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { isStart, kindsOf, requireNoGaps } from '../e2e/support/events.ts';
import { busyGuest, slowly } from '../e2e/support/guests.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { namesBelow } from '../harness/namesBelow.ts';
import { until } from '../lab/deadline.ts';
import { mountFaulty, type Faulty } from '../lab/faulty.ts';
import { holdWith, type Hold } from './matrix/bed.ts';
import { nothingLeft } from './support/nothingLeft.ts';

const STALLED = RepositoryState.REPOSITORY_STATE_STALLED;
const ANSWERING = RepositoryState.REPOSITORY_STATE_ANSWERING;

describe('a repository that hangs', function () {
  this.timeout(180_000);
  let hold: Hold;
  let directory = '';
  const fixture = useHoldfast({
    guest: busyGuest,
    holdfast: async () => {
      directory = await mkdtemp(path.join(tmpdir(), 'holdfast-hold-'));
      const file = path.join(directory, 'hold');
      hold = holdWith(file);
      const program = path.join(import.meta.dirname, 'support/hold.ts');
      const env = { NODE_OPTIONS: `--import=${program}`, HOLDFAST_TEST_HOLD: file };
      return { agents: [{ zone: 'z1', env }] };
    },
  });
  after(() => rm(directory, { recursive: true }));
  let nas: Faulty;
  before(async () => {
    const { client, directory } = fixture.holdfast;
    nas = await mountFaulty(path.join(directory, 'mnt'), path.join(directory, 'behind'));
    await client.call(
      client.repositories.addRepository.bind(client.repositories),
      AddRepositoryRequest.fromPartial({
        zone: 'z1',
        name: 'hung',
        type: RepositoryType.REPOSITORY_TYPE_LOCAL,
        path: nas.point,
      }),
    );
  });
  // Before the fixture's own, which removes what it is mounted in.
  after(() => nas[Symbol.asyncDispose]());
  afterEach(async () => {
    await nas.heal();
    await nothingLeft(fixture.lab, fixture.holdfast, [nas.point]);
    assert.deepEqual(await partials(), []);
  });

  const partials = async (): Promise<string[]> =>
    (await namesBelow(nas.directory)).filter((name) => /\.partial|probe/.test(name));
  const show = (name: string): Promise<GetRepositoryResponse> => {
    const { client } = fixture.holdfast;
    return client.call(client.repositories.getRepository.bind(client.repositories), { name });
  };
  const stateOf = async (name: string): Promise<RepositoryState | undefined> => {
    const { client } = fixture.holdfast;
    const { repositories } = await client.call(
      client.repositories.listRepositories.bind(client.repositories),
      { zone: 'z1' },
    );
    return repositories.find((each) => each.name === name)?.health[0]?.state;
  };
  /** Takes a backup, and hangs the repository in its middle. */
  const hanging = async (
    settings: Record<string, string>,
    meanwhile: (operation: Operation) => Promise<void>,
  ): Promise<Followed> => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const request = { zone: 'z1', domain: guest.name, repository: 'hung', settings };
    const operation = await client.startBackup(request);
    return client.follow(operation.id, async (event) => {
      if (!isStart(event, Stage.STAGE_CONVERT)) return;
      nas.hang();
      await meanwhile(operation);
    });
  };

  it('is STALLED for all to see, is waited for, and the backup goes on when it answers', async () => {
    const { client } = fixture.holdfast;
    const followed = await hanging(slowly, async ({ id }) => {
      const stalled = await until('The operation is stalled', 20_000, async () => {
        const operation = await client.getOperation(id);
        return operation.stalledSince === undefined ? undefined : operation;
      });
      assert.ok(stalled.stalledSince);
      const askedMs = performance.now();
      const { repository, sizeBytes } = await show('hung');
      assert.ok(performance.now() - askedMs < 2_000, 'what is known is told at once');
      assert.equal(sizeBytes, 0n);
      assert.deepEqual(
        repository?.health.map(({ host, state }) => [host, state]),
        [['host-1', STALLED]],
      );
      assert.equal(await stateOf('hung'), STALLED);
      // Nothing else is held up.
      assert.ok((await show('nas-z1')).sizeBytes > 0n);
      await fixture.guest.writeFile('/data/meanwhile.txt', 'The guest goes on.\n');
      await nas.heal();
    });
    const { warnings, backupId } = succeeded(followed);
    requireNoGaps(followed.events);
    const kinds = kindsOf(followed.events);
    assert.ok(kinds.indexOf('repositoryAnswered') > kinds.indexOf('repositoryStalled'), kinds.join());
    assert.deepEqual(
      warnings.map(({ reason }) => reason),
      ['REPOSITORY_STALLED'],
    );
    const { manifest } = await client.getBackup(backupId);
    assert.match(manifest?.warnings.join() ?? '', /did not answer for \d+ s/);
    await until('It is seen to answer', 20_000, async () =>
      (await stateOf('hung')) === ANSWERING ? true : undefined,
    );
    succeeded(await client.verifyBackup({ backupId }));
  });

  it('fails the backup when that is the policy, and what it had made is removed once it answers', async () => {
    const settings = { ...slowly, 'nas.backup.repository.stalled': 'fail' };
    const error = failed(await hanging(settings, () => Promise.resolve()));
    assert.equal(error.reason, 'REPOSITORY_STALLED', error.message);
    assert.equal(await stateOf('hung'), STALLED);
    await fixture.guest.writeFile('/data/after.txt', 'The guest goes on.\n');
    await nas.heal();
    await until('It is seen to answer', 30_000, async () =>
      (await stateOf('hung')) === ANSWERING ? true : undefined,
    );
    await until('What was made is removed', 60_000, async () =>
      (await partials()).length === 0 ? true : undefined,
    );
  });

  const cancel = async (operationId: string): Promise<number> => {
    const { client } = fixture.holdfast;
    const nowMs = performance.now();
    await client.call(client.operations.cancelOperation.bind(client.operations), { operationId });
    return nowMs;
  };
  const cancelledInTime = (followed: Followed, cancelledMs: number): void => {
    const tookMs = performance.now() - cancelledMs;
    assert.equal(failed(followed).reason, 'CANCELLED');
    assert.ok(tookMs < 5_500, `${tookMs} ms`);
  };
  const healed = async (): Promise<void> => {
    await nas.heal();
    await until('What was made is removed', 60_000, async () =>
      (await partials()).length === 0 ? true : undefined,
    );
  };

  it('does not keep a backup from being cancelled within five seconds', async () => {
    let cancelledMs = 0;
    const followed = await hanging(slowly, async ({ id }) => {
      cancelledMs = await cancel(id);
    });
    cancelledInTime(followed, cancelledMs);
    await healed();
  });

  it('does not keep a verification or a restore from it either', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { backups } = client;
    const request = { zone: 'z1', domain: guest.name, repository: 'hung' };
    const { backupId } = succeeded(await client.takeBackup(request));
    const directory = await holdfast.restoreDirectory();
    const restore = RestoreBackupRequest.fromPartial({
      ...{ backupId, host: holdfast.agent.hostName, directory },
      bandwidthLimitMibps: 4n,
    });
    for (const [stage, start] of [
      [
        Stage.STAGE_PREPARE,
        () => client.call(backups.verifyBackup.bind(backups), VerifyBackupRequest.fromPartial({ backupId })),
      ],
      [Stage.STAGE_CONVERT, () => client.call(backups.restoreBackup.bind(backups), restore)],
    ] as const) {
      const { operation } = await start();
      const id = operation?.id ?? '';
      let cancelledMs = 0;
      const followed = await client.follow(id, async (event) => {
        if (!isStart(event, stage)) return;
        nas.hang();
        cancelledMs = await cancel(id);
      });
      cancelledInTime(followed, cancelledMs);
      await healed();
    }
    await until('What was restored is removed', 60_000, async () =>
      (await readdir(directory)).length === 0 ? true : undefined,
    );
  });

  it('does not keep a deletion that has touched nothing from being cancelled, and the backup is as it was', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { backups } = client;
    const request = { zone: 'z1', domain: guest.name, repository: 'hung' };
    const { backupId } = succeeded(await client.takeBackup(request));
    nas.hang();
    const asked = DeleteBackupRequest.fromPartial({ backupId });
    const { operation } = await client.call(backups.deleteBackup.bind(backups), asked);
    const id = operation?.id ?? '';
    await until('It has begun', 10_000, async () =>
      (await client.getOperation(id)).state === OperationState.OPERATION_STATE_RUNNING ? true : undefined,
    );
    const cancelledMs = await cancel(id);
    cancelledInTime(await client.follow(id), cancelledMs);
    await nas.heal();
    succeeded(await client.verifyBackup({ backupId }));
    succeeded(await client.deleteBackup(backupId));
    assert.ok(!(await namesBelow(nas.directory)).some((name) => name.includes(backupId)));
  });

  it('is STALLED for all to see when a deletion that took the backup out of its place waits for it', async () => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    const { backups } = client;
    const request = { zone: 'z1', domain: guest.name, repository: 'hung' };
    const { backupId } = succeeded(await client.takeBackup(request));
    const asked = DeleteBackupRequest.fromPartial({ backupId });
    const deleted = async (meanwhile: (id: string) => Promise<void>): Promise<Followed> => {
      await hold.at({ kind: 'helper', call: 'removeFolder' });
      const { operation } = await client.call(backups.deleteBackup.bind(backups), asked);
      const id = operation?.id ?? '';
      await until('The backup is out of its place', 20_000, () => hold.held());
      assert.equal((await partials()).length > 0, true);
      nas.hang();
      await hold.release();
      await until('The deletion is seen to wait', 30_000, async () =>
        (await client.getOperation(id)).stalledSince === undefined ? undefined : true,
      );
      assert.equal(await stateOf('hung'), STALLED);
      await meanwhile(id);
      return client.follow(id);
    };
    // It waits for no longer than half a minute.
    const error = failed(await deleted(() => Promise.resolve()));
    assert.equal(error.reason, 'REPOSITORY_STALLED', error.message);
    assert.match(error.message, /delete it again/);
    await nas.heal();
    // What is out of its place already stays there until then; this time the NAS comes back in time.
    const followed = await deleted(() => nas.heal());
    succeeded(followed);
    const kinds = kindsOf(followed.events);
    assert.ok(kinds.includes('repositoryStalled'), kinds.join());
    await until('It is seen to answer', 20_000, async () =>
      (await stateOf('hung')) === ANSWERING ? true : undefined,
    );
    assert.ok(!(await namesBelow(nas.directory)).some((name) => name.includes(backupId)));
  });
});

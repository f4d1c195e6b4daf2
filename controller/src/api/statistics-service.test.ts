import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { ListRepositoryStatisticsResponse } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { happening, type FakeAgent } from '../testing/fake-agent.ts';
import {
  TEST_DEADLINE_MS,
  ask,
  jobOf,
  reaches,
  refused,
  startLab,
  takeBackup,
  type Lab,
} from '../testing/lab.ts';
import { describeOnBothStores } from '../testing/stores.ts';

describeOnBothStores('asking for statistics', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let lab: Lab;
  let agent: FakeAgent;
  beforeEach(async () => {
    lab = await startLab(kind);
    agent = await lab.furnish();
  });
  afterEach(() => lab.close());

  const repositories = (): Promise<ListRepositoryStatisticsResponse> => {
    const { statistics } = lab.clients;
    return ask(statistics.listRepositoryStatistics.bind(statistics), { zone: '', repository: '' });
  };

  it('gives what there is as soon as a backup has ended', async () => {
    const { id } = await takeBackup(lab);
    const job = await jobOf(agent, id);
    job.emit(happening.backedUp(job.start as TakeBackupStart));
    await reaches(lab, id, OperationState.OPERATION_STATE_SUCCEEDED);
    const { repositories: found } = await repositories();
    assert.equal(found[0]?.sums?.backups, 1n);
    assert.deepEqual(found[0].space, { sizeBytes: 1_000n, usedBytes: 550n, freeBytes: 400n });
    assert.equal(found[0].error, undefined);
  });

  it('gives the sums of a repository that does not answer, and says why it has no space', async () => {
    agent.repositoryProblem = new HoldfastError('REPOSITORY_STALLED', 'the NAS hangs');
    const { repositories: found } = await repositories();
    assert.deepEqual(
      found.map(({ repository, space, error }) => [repository, space, error?.message]),
      [['r1', undefined, 'the NAS hangs']],
    );
    assert.equal(found[0]?.sums?.backups, 0n);
  });

  it('refuses what is not there', async () => {
    const { statistics } = lab.clients;
    const zone = 'nowhere';
    await refused(ask(statistics.listZoneStatistics.bind(statistics), { zone }), 'ZONE_NOT_FOUND');
    const domains = { zone, domain: '', pageSize: 0, pageToken: '' };
    await refused(ask(statistics.listDomainStatistics.bind(statistics), domains), 'ZONE_NOT_FOUND');
    const repository = { zone: '', repository: 'none' };
    await refused(
      ask(statistics.listRepositoryStatistics.bind(statistics), repository),
      'REPOSITORY_NOT_FOUND',
    );
  });
});

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { CompiledQuery, createQueryId, sql, type RootOperationNode } from 'kysely';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { DomainStatistics } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { transferredBytes } from '../store/migrations.ts';
import { openStore, type Store } from '../store/store.ts';
import { MASTER_KEY, TEST_DEADLINE_MS, refused } from '../testing/lab.ts';
import { describeOnBothStores, makeState, type TestState } from '../testing/stores.ts';
import { insertBackup } from './backups.ts';
import { createStatistics, type Statistics } from './statistics.ts';

const TIB = 1024n ** 4n;
const A = '00000000-0000-4000-8000-00000000000a';
const B = '00000000-0000-4000-8000-00000000000b';

describeOnBothStores('statistics', function (kind) {
  this.timeout(TEST_DEADLINE_MS);
  let state: TestState;
  let store: Store;
  let statistics: Statistics;
  beforeEach(async () => {
    state = await makeState(kind);
    store = await openStore(state.place, MASTER_KEY);
    statistics = createStatistics({ store });
    for (const name of ['z1', 'z2', 'empty'])
      await store.db.insertInto('zones').values({ name, create_time: '' }).execute();
    for (const [name, zone] of [
      ['r1', 'z1'],
      ['r2', 'z2'],
      ['unused', 'z2'],
    ] as const) {
      // By column, since later steps add columns with defaults.
      await sql`insert into repositories (name, zone, type, path, create_time)
        values (${name}, ${zone}, 1, ${`/${name}`}, '')`.execute(store.db);
    }
  });
  afterEach(async () => {
    await store.close();
    await state.remove();
  });

  /** Enters a backup with two disks of the same figures. */
  const insert = async (
    zone: string,
    repository: string,
    domainUuid: string,
    at: number,
    disk: { virtualSizeBytes?: bigint; dataBytes?: bigint; transferredBytes?: bigint; storedBytes?: bigint },
    domainName = domainUuid,
  ): Promise<string> => {
    const id = randomUUID();
    const manifest = Manifest.fromPartial({
      ...{ domainUuid, domainName, snapshotTime: new Date(at) },
      disks: [disk, disk],
      stages: [
        { stage: 'convert', outputBytes: 5n },
        { stage: 'encrypt', outputBytes: 6n },
      ],
    });
    const result = { path: 'p', manifest, manifestSha256: 's', filesBytes: 0n };
    await store.transact(async (trx) => {
      const published = { id, zone, host: 'h', repository, result, manifest, escrowId: '', key: undefined };
      await insertBackup(trx, published, new Date(at), 0);
    });
    return id;
  };

  it('add up by zone, domain and repository, those without backups too', async () => {
    await insert('z1', 'r1', A, 1_000, { dataBytes: 10n, transferredBytes: 7n, storedBytes: 8n }, 'old');
    await insert('z1', 'r1', A, 3_000, { dataBytes: 20n, transferredBytes: 1n, storedBytes: 2n }, 'new');
    await insert('z1', 'r1', B, 2_000, { dataBytes: 1n, transferredBytes: 1n, storedBytes: 1n });
    await insert('z2', 'r2', A, 9_000, { dataBytes: 3n, transferredBytes: 3n, storedBytes: 3n }, 'new');

    const zones = await statistics.ofZones('');
    assert.deepEqual(
      zones.map((each) => [each.zone, each.domains, each.sums?.backups, each.sums?.dataBytes]),
      [
        ['empty', 0n, 0n, 0n],
        ['z1', 2n, 3n, 62n],
        ['z2', 1n, 1n, 6n],
      ],
    );
    assert.deepEqual(zones[1]?.sums, {
      ...{ backups: 3n, virtualSizeBytes: 0n, dataBytes: 62n, transferredBytes: 18n, storedBytes: 22n },
      ...{ oldestSnapshotTime: new Date(1_000), newestSnapshotTime: new Date(3_000) },
    });
    assert.equal(zones[0]?.sums?.oldestSnapshotTime, undefined);
    assert.deepEqual(
      (await statistics.ofZones('z2')).map((each) => each.zone),
      ['z2'],
    );

    const { domains } = await statistics.ofDomains({ zone: '', domain: '', pageSize: 0, pageToken: '' });
    assert.deepEqual(
      domains.map((each) => [each.zone, each.domainUuid, each.domainName, each.sums?.storedBytes]),
      [
        ['z1', A, 'new', 20n],
        ['z1', B, B, 2n],
        ['z2', A, 'new', 6n],
      ],
    );

    const repositories = await statistics.ofRepositories({ zone: '', repository: '' });
    assert.deepEqual(
      repositories.map((each) => [each.repository, each.zone, each.sums?.backups, each.sums?.storedBytes]),
      [
        ['r1', 'z1', 3n, 22n],
        ['r2', 'z2', 1n, 6n],
        ['unused', 'z2', 0n, 0n],
      ],
    );
    for (const [query, names] of [
      [{ zone: 'z2', repository: '' }, ['r2', 'unused']],
      [{ zone: '', repository: 'r1' }, ['r1']],
      [{ zone: 'z2', repository: 'r1' }, []],
    ] as const) {
      assert.deepEqual(
        (await statistics.ofRepositories(query)).map((each) => each.repository),
        names,
      );
    }
  });

  it('find a domain by its UUID and by any name that it had', async () => {
    await insert('z1', 'r1', A, 1_000, {}, 'old');
    await insert('z1', 'r1', A, 3_000, {}, 'new');
    await insert('z1', 'r1', B, 3_000, {}, 'other');
    for (const domain of ['old', 'new', A, A.toUpperCase()]) {
      const { domains } = await statistics.ofDomains({ zone: 'z1', domain, pageSize: 0, pageToken: '' });
      assert.deepEqual(
        domains.map((each) => [each.domainUuid, each.domainName, each.sums?.backups]),
        [[A, 'new', 2n]],
        domain,
      );
    }
    const none = await statistics.ofDomains({ zone: '', domain: 'none', pageSize: 0, pageToken: '' });
    assert.deepEqual(none, { domains: [], nextPageToken: '' });
  });

  it('come in pages that miss nothing', async () => {
    const uuids = Array.from({ length: 5 }, (_, index) => A.replace(/a$/, index.toString()));
    for (const uuid of uuids) {
      await insert('z1', 'r1', uuid, 1_000, {});
      await insert('z2', 'r2', uuid, 1_000, {});
    }
    const seen: DomainStatistics[] = [];
    let pageToken = '';
    do {
      const page = await statistics.ofDomains({ zone: '', domain: '', pageSize: 3, pageToken });
      seen.push(...page.domains);
      pageToken = page.nextPageToken;
    } while (pageToken !== '');
    const all = ['z1', 'z2'].flatMap((zone) => uuids.map((uuid) => `${zone} ${uuid}`));
    assert.deepEqual(
      seen.map((each) => `${each.zone} ${each.domainUuid}`),
      all,
    );
    const query = { zone: '', domain: '', pageSize: 0, pageToken: '' };
    await refused(statistics.ofDomains({ ...query, pageSize: -1 }), 'INVALID_REQUEST');
    for (const token of ['x', Buffer.from(`z1 ${A} more`).toString('base64url')])
      await refused(statistics.ofDomains({ ...query, pageToken: token }), 'INVALID_REQUEST');
  });

  it('hold more than a number can', async () => {
    for (let count = 0; count < 3; count++)
      await insert('z1', 'r1', A, 1_000, { virtualSizeBytes: 4_000n * TIB });
    const [zone] = await statistics.ofZones('z1');
    assert.equal(zone?.sums?.virtualSizeBytes, 24_000n * TIB);
  });

  if (kind === 'sqlite') {
    it('are read from indices alone', async () => {
      const nodes: RootOperationNode[] = [];
      const db = store.db.withPlugin({
        transformQuery: ({ node }) => {
          nodes.push(node);
          return node;
        },
        transformResult: ({ result }) => Promise.resolve(result),
      });
      const watched = createStatistics({ store: { ...store, db } });
      await watched.ofZones('');
      await watched.ofZones('z1');
      await watched.ofRepositories({ zone: '', repository: '' });
      assert.equal(nodes.length, 3);
      for (const node of nodes) {
        const query = store.db.getExecutor().compileQuery(node, createQueryId());
        const explain = CompiledQuery.raw(`explain query plan ${query.sql}`, [...query.parameters]);
        const { rows } = await store.db.executeQuery<{ detail: string }>(explain);
        const steps = rows.map(({ detail }) => detail).filter((detail) => / backups\b/.test(detail));
        assert.equal(steps.length, 1);
        assert.match(steps[0] ?? '', /^SEARCH backups USING COVERING INDEX /);
      }
    });
  }

  it('know what older backups transferred from their stages', async () => {
    const id = await insert('z1', 'r1', A, 1_000, { dataBytes: 1n });
    assert.equal((await statistics.ofZones('z1'))[0]?.sums?.transferredBytes, 6n);
    // A database as it was before, with that backup.
    await sql`drop index backups_by_domain`.execute(store.db);
    await sql`drop index backups_by_repository`.execute(store.db);
    await sql`alter table backups drop column transferred_bytes`.execute(store.db);
    await transferredBytes(store.db);
    const row = await store.db
      .selectFrom('backups')
      .select('transferred_bytes')
      .where('id', '=', id)
      .executeTakeFirst();
    assert.equal(row?.transferred_bytes, 6);
  });
});

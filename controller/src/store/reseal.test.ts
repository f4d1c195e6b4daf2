import assert from 'node:assert/strict';
import { Secret } from '@holdfast/common/secret.ts';
import { describeOnBothStores, makeState, type TestState } from '../testing/stores.ts';
import { reseal } from './reseal.ts';
import { openStore, type Store } from './store.ts';

const OLD = new Secret('0a'.repeat(32));
const NEW = new Secret('0b'.repeat(32));
/** Each sealed column of the tables, by the name under which it is sealed. */
const SEALED = [
  'settings.value:z:k',
  'repositories.credentials:r',
  'keys.identity:key',
  'keys.passphrase:key',
  'operations.job:op',
] as const;

describeOnBothStores('sealing the state anew', function (kind) {
  this.timeout(60_000);
  let state: TestState;
  beforeEach(async () => {
    state = await makeState(kind);
    await using(OLD, fill);
  });
  afterEach(() => state.remove());

  async function using<Result>(key: Secret, work: (store: Store) => Promise<Result>): Promise<Result> {
    const store = await openStore(state.place, key);
    try {
      return await work(store);
    } finally {
      await store.close();
    }
  }

  it('puts every sealed value under the new master key, and only that one opens it then', async () => {
    assert.equal(await reseal(state.place, OLD, NEW), SEALED.length);
    await assert.rejects(openStore(state.place, OLD), { reason: 'STATE_UNUSABLE' });
    const { values, columns } = await using(NEW, readAll);
    assert.deepEqual(values, Object.fromEntries(SEALED.map((name) => [name, `secret of ${name}`])));
    // A column that is added and sealed, and not known here, would be lost.
    assert.equal(columns, SEALED.length + 1);
  });

  it('is refused with a wrong master key, and while a controller works on the state', async () => {
    await assert.rejects(reseal(state.place, NEW, OLD), { reason: 'STATE_UNUSABLE' });
    await using(OLD, async () => {
      await assert.rejects(reseal(state.place, OLD, NEW), { reason: 'IN_USE' });
    });
    assert.equal((await using(OLD, readAll)).values['keys.identity:key'], 'secret of keys.identity:key');
  });

  it('leaves all as it was when a value does not open', async () => {
    await using(OLD, (store) =>
      store.transact((trx) =>
        trx
          .updateTable('operations')
          .set({ job_sealed: Buffer.from('damaged') })
          .execute(),
      ),
    );
    await assert.rejects(reseal(state.place, OLD, NEW), { reason: 'STATE_UNUSABLE' });
    const identity = await using(OLD, async ({ db, sealer }) => {
      const row = await db.selectFrom('keys').select('identity_sealed').executeTakeFirstOrThrow();
      return sealer.open(row.identity_sealed, 'keys.identity:key').toString();
    });
    assert.equal(identity, 'secret of keys.identity:key');
  });
});

async function fill(store: Store): Promise<void> {
  const time = '2026-01-01T00:00:00.000Z';
  const seal = (name: (typeof SEALED)[number]): Uint8Array => store.sealer.seal(`secret of ${name}`, name);
  await store.transact(async (trx) => {
    await trx.insertInto('zones').values({ name: 'z', create_time: time }).execute();
    await trx
      .insertInto('settings')
      .values({
        zone: 'z',
        key: 'k',
        value: null,
        value_sealed: seal('settings.value:z:k'),
        change_time: time,
      })
      .execute();
    await trx
      .insertInto('repositories')
      .values({
        ...{ name: 'r', zone: 'z', type: 1, path: '/r', create_time: time, address: '', mount_options: '[]' },
        ...{ repository_id: '', credentials_sealed: seal('repositories.credentials:r') },
        ...{ scrub_failures: 0, scrub_rest_until: null, scrub_message: '' },
      })
      .execute();
    for (const [id, isThere] of [
      ['key', true],
      ['retired', false],
    ] as const) {
      await trx
        .insertInto('keys')
        .values({
          ...{ id, zone: 'z', origin: 'zone', state: isThere ? 'active' : 'retired', recipient: 'age1' },
          identity_sealed: isThere ? seal('keys.identity:key') : new Uint8Array(),
          passphrase_sealed: isThere ? seal('keys.passphrase:key') : new Uint8Array(),
          ...{ key_file: null, generation: 1, create_time: time, retire_time: null },
        })
        .execute();
    }
    await trx
      .insertInto('operations')
      .values({
        ...{ id: 'op', kind: 1, state: 1, active: 1, zone: 'z', host: 'h', repository: 'r', backup_id: 'b' },
        ...{ domain_uuid: 'd', domain_name: 'd', create_time: time, admitted: 0, any_host: 0, origin: 1 },
        ...{ request_id: null, request_digest: '', job_sealed: seal('operations.job:op'), start_sent: 0 },
        ...{ accepted: 0, cancel_wanted: 0, key_id: '', key_generation: 0, key_escrow_id: '', leader: '' },
        ...{ fencing_epoch: 1, last_sequence: 0, agent_sequence: 0, operation_message: new Uint8Array() },
      })
      .execute();
  });
}

/** What the sealed columns hold, and how many there are in the tables of the schema. */
async function readAll({
  db,
  sealer,
}: Store): Promise<{ readonly values: Record<string, string>; readonly columns: number }> {
  const open = (sealed: Uint8Array | null, name: string): [string, string] => [
    name,
    sealed === null ? '' : sealer.open(sealed, name).toString(),
  ];
  const setting = await db.selectFrom('settings').select('value_sealed').executeTakeFirstOrThrow();
  const repository = await db
    .selectFrom('repositories')
    .select('credentials_sealed')
    .executeTakeFirstOrThrow();
  const key = await db.selectFrom('keys').selectAll().where('id', '=', 'key').executeTakeFirstOrThrow();
  const operation = await db.selectFrom('operations').select('job_sealed').executeTakeFirstOrThrow();
  const tables = await db.introspection.getTables();
  return {
    values: Object.fromEntries([
      open(setting.value_sealed, 'settings.value:z:k'),
      open(repository.credentials_sealed, 'repositories.credentials:r'),
      open(key.identity_sealed, 'keys.identity:key'),
      open(key.passphrase_sealed, 'keys.passphrase:key'),
      open(operation.job_sealed, 'operations.job:op'),
    ]),
    columns: tables.flatMap((table) => table.columns).filter(({ name }) => name.endsWith('_sealed')).length,
  };
}

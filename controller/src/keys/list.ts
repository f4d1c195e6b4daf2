import { KeyState, type Key } from '@holdfast/proto/holdfast/v1/key.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Db } from '../store/store.ts';
import { keyWork } from './work.ts';

/** A zone's keys, newest first, without their secret parts. */
export async function listKeys(db: Db, zone: string): Promise<Key[]> {
  const rows = await db
    .selectFrom('keys')
    .leftJoin('backups', 'backups.key_id', 'keys.id')
    .select((select) => [
      ...(['keys.id', 'keys.zone', 'keys.origin', 'keys.state', 'keys.recipient'] as const),
      ...(['keys.create_time', 'keys.retire_time'] as const),
      select.fn.count<number>('backups.id').as('backups'),
    ])
    .where('keys.zone', '=', zone)
    .groupBy('keys.id')
    .orderBy('keys.create_time', 'desc')
    .orderBy('keys.id', 'desc')
    .execute();
  const pending = await keyWork(db, zone);
  return rows.map((row) => ({
    id: row.id,
    zone: row.zone,
    recipient: row.recipient,
    createTime: new Date(row.create_time),
    backupCount: BigInt(row.backups),
    state: stateOf(row),
    retireTime: row.retire_time === null ? undefined : new Date(row.retire_time),
    pending: pending
      .filter((each) => each.keyId === row.id)
      .map(({ repository, message }) => ({ repository, message })),
  }));
}

function stateOf({ origin, state }: Pick<KeyTable, 'origin' | 'state'>): KeyState {
  switch (state) {
    case 'active':
      return origin === 'request' ? KeyState.KEY_STATE_REQUEST : KeyState.KEY_STATE_ACTIVE;
    case 'retiring':
      return KeyState.KEY_STATE_RETIRING;
    case 'retired':
      return KeyState.KEY_STATE_RETIRED;
    case 'missing':
      return KeyState.KEY_STATE_MISSING;
  }
}

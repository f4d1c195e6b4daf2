import { randomUUID } from 'node:crypto';
import type { SettingKey } from '@holdfast/common/settings.ts';
import type { SettingChange } from '@holdfast/proto/holdfast/v1/setting.ts';
import { cutPage, parsePageSize, parsePageToken } from '../catalog/page.ts';
import type { Db, Trx } from '../store/store.ts';
import type { SettingValue } from './resolve.ts';

/** Who asks for a change, and when. */
export interface ChangeAuthor {
  readonly caller: string;
  readonly correlationId: string;
  readonly time: Date;
}

/** Notes what was changed, in the transaction that changes it. Of a secure value, only that it was. */
export async function noteSettingChange(
  trx: Trx,
  author: ChangeAuthor,
  change: {
    readonly zone: string;
    readonly key: SettingKey;
    readonly from: SettingValue | undefined;
    /** Undefined when the value was taken away. */
    readonly to: SettingValue | undefined;
  },
): Promise<void> {
  await trx
    .insertInto('setting_changes')
    .values({
      id: randomUUID(),
      time: author.time.toISOString(),
      zone: change.zone,
      key: change.key,
      old_value: shown(change.from),
      new_value: shown(change.to),
      unset: change.to === undefined ? 1 : 0,
      caller: author.caller,
      correlation_id: author.correlationId,
    })
    .execute();
}

/** Changes, newest first. @throws HoldfastError INVALID_REQUEST for a bad page size or token */
export async function listSettingChanges(
  db: Db,
  query: {
    /** Empty for the global scope; undefined for all. */
    readonly zone: string | undefined;
    readonly key: SettingKey | undefined;
    readonly pageSize: number;
    readonly pageToken: string;
  },
): Promise<{ readonly changes: SettingChange[]; readonly nextPageToken: string }> {
  const size = parsePageSize(query.pageSize);
  const end = parsePageToken(query.pageToken);
  let select = db.selectFrom('setting_changes').selectAll();
  if (query.zone !== undefined) select = select.where('zone', '=', query.zone);
  if (query.key !== undefined) select = select.where('key', '=', query.key);
  if (end !== undefined) {
    select = select.where((where) =>
      where.or([
        where('time', '<', end.time),
        where.and([where('time', '=', end.time), where('id', '<', end.id)]),
      ]),
    );
  }
  const rows = await select
    .orderBy('time', 'desc')
    .orderBy('id', 'desc')
    .limit(size + 1)
    .execute();
  const { page, nextPageToken } = cutPage(rows, size, ({ time, id }) => ({ time, id }));
  const changes = page.map((row) => ({
    time: new Date(row.time),
    zone: row.zone,
    key: row.key,
    oldValue: row.old_value,
    newValue: row.new_value,
    unset: row.unset === 1,
    caller: row.caller,
    correlationId: row.correlation_id,
  }));
  return { changes, nextPageToken };
}

function shown(value: SettingValue | undefined): string {
  return typeof value === 'string' ? value : '';
}

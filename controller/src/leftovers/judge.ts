import type { FindLeftoversResponse } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Host } from '@holdfast/proto/holdfast/v1/host.ts';
import { LeftoverState, type Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Store } from '../store/store.ts';

/** Of a host that is known no more, something that was untouched for so long is written to by nobody. */
const UNTOUCHED_MS = 86_400_000;

/** What the judge can ask. */
export interface Witnesses {
  /** All that are known. */
  readonly hosts: readonly Host[];
  readonly look: (host: Host) => Promise<FindLeftoversResponse>;
  readonly now: Date;
}

/**
 * Decides on something that an agent alone cannot tell whose it is: it can be removed when the operation that made it is
 * one of this controller's and has ended, and its host says that no process works on it any more.
 */
export async function judge(
  db: Store['db'],
  leftover: Leftover,
  { hosts, look, now }: Witnesses,
): Promise<Leftover> {
  const keep = (reason: string): Leftover => ({
    ...leftover,
    state: LeftoverState.LEFTOVER_STATE_KEPT,
    reason,
  });
  const { backupId, jobId } = leftover;
  const operations = await db
    .selectFrom('operations')
    .select(['id', 'kind', 'active', 'host'])
    .where((where) => (backupId === '' ? where('id', '=', jobId) : where('backup_id', '=', backupId)))
    .execute();
  const active = operations.find((operation) => operation.active === 1);
  if (active !== undefined) return keep(`Operation ${active.id} works on it.`);
  const maker = operations.find(
    ({ kind }) => backupId === '' || kind === (OperationKind.OPERATION_KIND_TAKE_BACKUP as number),
  );
  if (maker === undefined) {
    return keep(
      'No operation that this controller knows made it. If no other controller and no person uses it, remove it by hand.',
    );
  }
  const backup =
    backupId === ''
      ? undefined
      : await db.selectFrom('backups').select('id').where('id', '=', backupId).executeTakeFirst();
  if (backup !== undefined) {
    return keep(`Its deletion was not completed. Delete it again: holdfast delete ${backupId}`);
  }
  const host = hosts.find(({ name }) => name === maker.host);
  if (host === undefined) {
    const changedMs = leftover.changeTime?.getTime();
    if (changedMs === undefined || now.getTime() - changedMs < UNTOUCHED_MS)
      return keep(`Host ${maker.host}, which made it, is not known any more, and may still be at work.`);
  } else {
    const answer = await look(host).catch(() => undefined);
    if (answer === undefined)
      return keep(`Host ${host.name}, which made it, does not answer, and may still be at work.`);
    if (answer.busyJobIds.includes(maker.id))
      return keep(`A process on host ${host.name} still works for operation ${maker.id}.`);
  }
  return {
    ...leftover,
    jobId: maker.id,
    state: LeftoverState.LEFTOVER_STATE_REMOVABLE,
    reason: `Operation ${maker.id}, which made it, has ended.`,
  };
}

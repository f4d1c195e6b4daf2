import { randomUUID } from 'node:crypto';
import { Operation, OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';
import { noteKeyWork } from '../keys/work.ts';
import type { Store, Trx } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import type { RepeatableRequest, Submit } from './submit.ts';

/** The updates of key files: one at a time in a zone, and what is changed while one runs is done by that one. */
export interface KeyUpdates {
  /** Notes what the settings of a zone, or of all (empty), ask for, and has it done. To be told after the commit. */
  settingsChanged(trx: Trx, zone: string): Promise<void>;
  /** The update that does what was noted: the one that runs, or a new one. */
  ensure(trx: Trx, zone: string, given: Partial<Given>): Promise<Operation>;
  /** Begins what was ensured in transactions that are committed now. */
  begin(): void;
  /** Notes what settings ask for that were changed when nobody looked. */
  lookOver(): Promise<void>;
}

interface Given {
  readonly correlationId: string;
  readonly request: RepeatableRequest;
}

export function createKeyUpdates(parts: {
  readonly store: Store;
  readonly settings: Pick<Settings, 'resolveIn'>;
  readonly submit: Submit;
}): KeyUpdates {
  const { store, submit } = parts;
  const stored = new Set<string>();

  const ensure: KeyUpdates['ensure'] = async (trx, zone, { correlationId = randomUUID(), request }) => {
    const running = await runningUpdate(trx, zone);
    if (running !== undefined) return running;
    const kind = OperationKind.OPERATION_KIND_UPDATE_KEYS;
    const operation = await submit.acceptIn(trx, {
      request: request ?? { kind, requestId: '', content: {} },
      job: { kind: 'keys' },
      operation: {
        zone,
        correlationId,
        ...{ host: '', hostReason: '', repository: '', backupId: '', domainName: '', domainUuid: '' },
      },
      anyHost: false,
      fencingEpoch: (await newestEpoch(trx, zone)) + 1,
      guard: () => Promise.resolve(),
    });
    stored.add(operation.id);
    return operation;
  };
  const look = async (trx: Trx, zone: string): Promise<void> => {
    if (await noteKeyWork(parts, trx, zone)) await ensure(trx, zone, {});
  };
  const zonesOf = async (trx: Trx): Promise<readonly string[]> =>
    (await trx.selectFrom('zones').select('name').orderBy('name').execute()).map(({ name }) => name);
  const begin = (): void => {
    for (const id of stored) submit.drive(id);
    stored.clear();
  };

  return {
    ensure,
    begin,
    settingsChanged: async (trx, zone) => {
      for (const each of zone === '' ? await zonesOf(trx) : [zone]) await look(trx, each);
    },
    lookOver: async () => {
      await store.transact(async (trx) => {
        for (const zone of await zonesOf(trx)) await look(trx, zone);
      });
      begin();
    },
  };
}

/** The newest epoch of all updates of key files in a zone: repositories obey nobody with a smaller one than they have seen. */
async function newestEpoch(trx: Trx, zone: string): Promise<number> {
  const row = await trx
    .selectFrom('operations')
    .select((of) => of.fn.max<number | bigint>('fencing_epoch').as('epoch'))
    .where('zone', '=', zone)
    .where('kind', '=', OperationKind.OPERATION_KIND_UPDATE_KEYS)
    .executeTakeFirst();
  return Number(row?.epoch ?? 0);
}

/** The update of key files that has not ended in a zone. */
export async function runningUpdate(trx: Trx, zone: string): Promise<Operation | undefined> {
  const row = await trx
    .selectFrom('operations')
    .select('operation_message')
    .where('active', '=', 1)
    .where('zone', '=', zone)
    .where('kind', '=', OperationKind.OPERATION_KIND_UPDATE_KEYS)
    .executeTakeFirst();
  return row && Operation.decode(row.operation_message);
}

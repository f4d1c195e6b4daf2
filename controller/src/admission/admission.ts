import type { Logger } from '@holdfast/common/logger.ts';
import { WaitReason } from '@holdfast/proto/holdfast/v1/event.ts';
import { HostState, type Host } from '@holdfast/proto/holdfast/v1/host.ts';
import { OperationKind, OperationOrigin } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Hosts } from '../fleet/hosts.ts';
import { fitHosts, type Placement } from '../fleet/placement.ts';
import { needOf } from '../fleet/need.ts';
import type { Journal, LedOperation } from '../operations/journal.ts';
import type { Live } from '../operations/live.ts';
import type { Store, Trx } from '../store/store.ts';
import { integerOf, textOf, type ResolvedSettings } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import { takeTurns, type Closed, type Limits, type Wait } from './queue.ts';

/** Other controllers give slots back, too, and hosts come and go. */
const LOOK_EVERY_MS = 1_000;
/** Who waits so long for a host that takes no work looks whether the domain is on another one now. */
const LOOK_ELSEWHERE_MS = 15_000;

/** How an operation's wait has ended. */
export type Admitted =
  /** It may begin at once, and has not waited. */
  | { readonly kind: 'at once' }
  /** It may begin, on this host. */
  | { readonly kind: 'after waiting'; readonly placement: Placement | undefined }
  /** Its host takes no work: it may be that it can begin on another. */
  | { readonly kind: 'look elsewhere' }
  /** It does not wait any more: it was cancelled. */
  | { readonly kind: 'gone' };

/** Who may begin when: so many operations at a time on each host, on each repository and in each zone. */
export interface Admission {
  /** Waits until the operation may begin; `Operation.queued` says meanwhile for what. @throws when the signal aborts */
  enter(operation: LedOperation, signal: AbortSignal): Promise<Admitted>;
  /** Gives back the slot of an operation that has not begun after all. */
  giveBack(operation: LedOperation): Promise<void>;
  /** Looks again who may begin: something has ended, or a setting or host has changed. */
  changed(): void;
  close(): void;
}

interface Waiter {
  readonly operation: LedOperation;
  readonly resolve: (admitted: Admitted) => void;
  /** Since when its host takes no work. */
  closedSinceMs: number | undefined;
  told: string;
}

export interface AdmissionParts {
  readonly store: Store;
  readonly settings: Settings;
  readonly hosts: Hosts;
  readonly live: Live;
  /** Says what goes on with an operation, here and to other controllers. */
  readonly tell: Journal['progress'];
  readonly now: () => Date;
  readonly logger: Logger;
}

export function createAdmission(parts: AdmissionParts): Admission {
  const { store, settings, hosts, live, now, logger } = parts;
  const waiters = new Map<string, Waiter>();
  /** Zones that are being looked at, and whether they are to be looked at again. */
  const looking = new Map<string, { again: boolean }>();
  let closed = false;

  const settle = (id: string, admitted: Admitted): void => {
    const waiter = waiters.get(id);
    waiters.delete(id);
    live.unqueue(id);
    waiter?.resolve(admitted);
  };
  const look = async (zone: string): Promise<void> => {
    const mine = [...waiters.values()].filter(({ operation }) => operation.zone === zone);
    if (mine.length === 0) return;
    const { turn, placements, ended } = await decide(
      parts,
      zone,
      new Set(mine.map(({ operation }) => operation.id)),
    );
    for (const { operation } of mine) if (ended(operation.id)) settle(operation.id, { kind: 'gone' });
    for (const { id } of turn.admitted) settle(id, { kind: 'after waiting', placement: placements.get(id) });
    for (const [index, { id, wait }] of turn.waiting.entries()) {
      const waiter = waiters.get(id);
      if (waiter === undefined) continue;
      const isClosed = wait.for === 'down' || wait.for === 'drained';
      waiter.closedSinceMs = isClosed ? (waiter.closedSinceMs ?? now().getTime()) : undefined;
      if (now().getTime() - (waiter.closedSinceMs ?? Infinity) >= LOOK_ELSEWHERE_MS) {
        settle(id, { kind: 'look elsewhere' });
        continue;
      }
      tell(waiter, wait, index + 1);
    }
  };
  const tell = (waiter: Waiter, wait: Wait, position: number): void => {
    const message = messageOf(wait);
    if (waiter.told === `${position} ${message}`) return;
    waiter.told = `${position} ${message}`;
    parts.tell(waiter.operation.id, {
      time: now(),
      event: {
        $case: 'queued',
        value: { position, reason: REASONS[wait.for], subject: wait.subject, message },
      },
    });
  };
  const lookSoon = (zone: string): void => {
    const busy = looking.get(zone);
    if (busy !== undefined) {
      busy.again = true;
      return;
    }
    if (closed) return;
    const state = { again: false };
    looking.set(zone, state);
    void look(zone)
      .catch((error: unknown) => {
        if (!closed) logger.error('the queue could not be looked at', { zone, error });
      })
      .finally(() => {
        looking.delete(zone);
        if (state.again) lookSoon(zone);
      });
  };
  const changed = (): void => {
    for (const zone of new Set([...waiters.values()].map(({ operation }) => operation.zone))) lookSoon(zone);
  };
  const timer = setInterval(changed, LOOK_EVERY_MS);
  timer.unref();

  return {
    changed,
    enter: async (operation, signal) => {
      const { zone } = operation;
      if (isOpen(await hosts.find(operation.host)) && isUnlimited(limitsOf(await settings.resolve(zone))))
        return { kind: 'at once' };
      signal.throwIfAborted();
      const { promise, resolve, reject } = Promise.withResolvers<Admitted>();
      const leave = (): void => {
        waiters.delete(operation.id);
        reject(signal.reason as Error);
      };
      signal.addEventListener('abort', leave);
      waiters.set(operation.id, { operation, resolve, closedSinceMs: undefined, told: '' });
      lookSoon(zone);
      try {
        return await promise;
      } finally {
        signal.removeEventListener('abort', leave);
      }
    },
    giveBack: async ({ id }) => {
      await store.transact((trx) =>
        trx
          .updateTable('operations')
          .set({ admitted: 0 })
          .where('id', '=', id)
          .where('start_sent', '=', 0)
          .where('admitted', '=', 1)
          .execute(),
      );
      changed();
    },
    close: () => {
      closed = true;
      clearInterval(timer);
    },
  };
}

/** Gives out the slots of a zone to operations that are led here, in a transaction: other controllers do so, too. */
async function decide(
  { store, settings, hosts, now }: AdmissionParts,
  zone: string,
  mine: ReadonlySet<string>,
): Promise<{
  readonly turn: ReturnType<typeof takeTurns>;
  /** Of those that may begin on another host than before. */
  readonly placements: ReadonlyMap<string, Placement>;
  readonly ended: (id: string) => boolean;
}> {
  const resolved = await settings.resolve(zone);
  const zoneHosts = await hosts.list(zone);
  const label = textOf(resolved, 'nas.backup.placement.label');
  const closed = new Map(zoneHosts.flatMap((host) => closedEntry(host)));
  return await store.transact(async (trx) => {
    const rows = await activeRows(trx, zone);
    const hasBegun = (row: (typeof rows)[number]): boolean => row.start_sent === 1 || row.admitted === 1;
    // What runs on a host that is down holds up nobody elsewhere.
    const running = rows.filter((row) => hasBegun(row) && closed.get(row.host) !== 'down');
    const loaded = zoneHosts.map((host) => ({
      ...host,
      runningOperations: rows.filter((row) => row.host === host.name && hasBegun(row)).length,
    }));
    const fits = new Map<string, Placement[]>();
    const waiting = rows.filter((row) => !hasBegun(row) && row.cancel_wanted === 0);
    for (const row of waiting) {
      if (row.any_host === 1)
        fits.set(
          row.id,
          fitHosts(loaded, needOf({ type: (row.type ?? 0) as RepositoryType }, label, row.host)),
        );
    }
    const turn = takeTurns({
      zone,
      running: running.map((row) => ({
        domain: row.domain_uuid,
        host: row.host,
        repository: row.repository,
        background: isBackground(row),
      })),
      waiting: waiting.map((row) => ({
        id: row.id,
        createTimeMs: Date.parse(row.create_time),
        domain: row.domain_uuid,
        repository: row.repository,
        hosts: hostsOf(row.host, fits.get(row.id)),
        background: isBackground(row),
      })),
      limits: limitsOf(resolved),
      closed,
      nowMs: now().getTime(),
    });
    const placements = new Map<string, Placement>();
    for (const { id, host } of turn.admitted) {
      // Its turn, which its leader gives it.
      if (!mine.has(id)) continue;
      await trx.updateTable('operations').set({ admitted: 1 }).where('id', '=', id).execute();
      const placement = fits.get(id)?.find((each) => each.host === host);
      const before = rows.find((row) => row.id === id)?.host;
      if (placement !== undefined && host !== before) placements.set(id, placement);
    }
    const waitingIds = new Set(waiting.map((row) => row.id));
    return { turn, placements, ended: (id) => !waitingIds.has(id) };
  });
}

function activeRows(trx: Trx, zone: string) {
  return (
    trx
      .selectFrom('operations')
      .leftJoin('repositories', 'repositories.name', 'operations.repository')
      .select([
        'operations.id',
        'operations.host',
        'operations.repository',
        'operations.domain_uuid',
        'operations.create_time',
        'operations.start_sent',
        'operations.admitted',
        'operations.cancel_wanted',
        'operations.any_host',
        'operations.origin',
        'repositories.type',
      ])
      .where('operations.active', '=', 1)
      .where('operations.zone', '=', zone)
      // It has no host, and moves no data.
      .where('operations.kind', '!=', OperationKind.OPERATION_KIND_UPDATE_KEYS)
      .execute()
  );
}

function isBackground({ origin }: { readonly origin: number }): boolean {
  return origin === OperationOrigin.OPERATION_ORIGIN_SCRUB;
}

/** The hosts that an operation may begin on; its own when none fits, so that it says why it waits. */
function hostsOf(own: string, fit: readonly Placement[] | undefined): readonly string[] {
  if (fit === undefined || fit.length === 0) return [own];
  return fit.map(({ host }) => host);
}

function limitsOf(settings: ResolvedSettings): Limits {
  return {
    perHost: Number(integerOf(settings, 'nas.backup.concurrency.per.host')),
    perRepository: Number(integerOf(settings, 'nas.backup.concurrency.per.repository')),
    perZone: Number(integerOf(settings, 'nas.backup.concurrency.per.zone')),
  };
}

function isUnlimited({ perHost, perRepository, perZone }: Limits): boolean {
  return perHost === 0 && perRepository === 0 && perZone === 0;
}

function isOpen(host: Host): boolean {
  return closedEntry(host).length === 0;
}

function closedEntry({ name, drained, state }: Host): [string, Closed][] {
  if (state === HostState.HOST_STATE_DOWN) return [[name, 'down']];
  return drained ? [[name, 'drained']] : [];
}

const REASONS: Readonly<Record<Wait['for'], WaitReason>> = {
  host: WaitReason.WAIT_REASON_HOST_SLOT,
  repository: WaitReason.WAIT_REASON_REPOSITORY_SLOT,
  zone: WaitReason.WAIT_REASON_ZONE_SLOT,
  turn: WaitReason.WAIT_REASON_TURN,
  down: WaitReason.WAIT_REASON_HOST_DOWN,
  drained: WaitReason.WAIT_REASON_HOST_DRAINED,
};

function messageOf({ for: kind, subject }: Wait): string {
  switch (kind) {
    case 'host':
    case 'repository':
    case 'zone':
      return `waiting for a slot ${kind === 'zone' ? 'in' : 'on'} ${kind} ${subject}`;
    case 'turn':
      return `waiting for one that has waited for long for ${subject}`;
    case 'down':
      return `waiting for host ${subject}, which does not answer`;
    case 'drained':
      return `waiting for host ${subject}, which is drained`;
  }
}

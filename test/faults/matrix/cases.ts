/** The fault matrix as data: what is done, at which moment it is hit, and by what. */

export const KILLS = [
  'agent',
  'runner',
  'controller',
  'QSD',
  'libvirtd',
  'guest QEMU',
  'repository helper',
] as const;
export const NAS_FAULTS = ['hang', 'full', 'EIO', 'gone', 'read-only', 'slow', 'stale'] as const;
export const SCRATCH_FAULTS = ['full', 'read-only'] as const;

export type Victim = (typeof KILLS)[number];
export type NasFault = (typeof NAS_FAULTS)[number];
export type ScratchFault = (typeof SCRATCH_FAULTS)[number];
export type OperationName = 'backup' | 'verify' | 'restore' | 'delete';
/** How the domain of the backup is read. */
export type TransportName = 'pull' | 'push' | 'stopped';

export type Fault =
  | { readonly kind: 'kill -9'; readonly what: Victim }
  | { readonly kind: 'NAS'; readonly what: NasFault }
  | { readonly kind: 'scratch'; readonly what: ScratchFault };

/** An instant in an operation that can be met every time. */
export type Moment =
  /** The runner has told that a stage began, and done nothing of it. */
  | { readonly kind: 'runner'; readonly stage: string }
  /** The helper was asked for something on the repository, and has done nothing of it. */
  | { readonly kind: 'helper'; readonly call: string }
  /** The copy has told of its first bytes. */
  | { readonly kind: 'progress' };

export interface Case {
  readonly operation: OperationName;
  readonly transport: TransportName;
  readonly stage: string;
  readonly moment: Moment;
  readonly fault: Fault;
}

interface StageMoment {
  readonly stage: string;
  readonly moment: Moment;
  /** What does not run, or is not yet there or no longer, at that moment. */
  readonly without: readonly Victim[];
}

const runner = (stage: string): Moment => ({ kind: 'runner', stage });
const helper = (call: string): Moment => ({ kind: 'helper', call });

/** blockjob, convert and encrypt are one pass over the data: what hits one of them hits all three. */
export const PASS = 'blockjob, convert, encrypt';

export const MOMENTS: Readonly<Record<OperationName, readonly StageMoment[]>> = {
  backup: [
    { stage: 'prepare', moment: helper('createFile'), without: [] },
    { stage: 'quiesce', moment: runner('STAGE_QUIESCE'), without: [] },
    { stage: PASS, moment: { kind: 'progress' }, without: [] },
    { stage: 'check', moment: runner('STAGE_CHECK'), without: ['QSD'] },
    { stage: 'publish', moment: helper('renameFolder'), without: ['QSD'] },
  ],
  verify: [
    { stage: 'prepare', moment: helper('readFile'), without: ['QSD'] },
    { stage: 'check', moment: runner('STAGE_CHECK'), without: ['QSD'] },
  ],
  restore: [
    { stage: 'prepare', moment: helper('readFile'), without: ['QSD'] },
    { stage: 'convert', moment: { kind: 'progress' }, without: [] },
    { stage: 'publish', moment: runner('STAGE_PUBLISH'), without: ['QSD'] },
  ],
  // The agent's own work: it has no stages and no runner, but these two steps.
  delete: [
    { stage: 'rename', moment: helper('renameFolder'), without: ['QSD', 'runner'] },
    { stage: 'remove', moment: helper('removeFolder'), without: ['QSD', 'runner'] },
  ],
};

const TRANSPORTS: Readonly<Record<OperationName, readonly TransportName[]>> = {
  backup: ['pull', 'push', 'stopped'],
  // A published backup does not know how it was made: these work on one of the running domain.
  verify: ['pull'],
  restore: ['pull'],
  delete: ['pull'],
};

/** All cases, in the order in which they are run. */
export function allCases(): readonly Case[] {
  return (Object.keys(MOMENTS) as OperationName[]).flatMap((operation) =>
    TRANSPORTS[operation].flatMap((transport) =>
      MOMENTS[operation].flatMap(({ stage, moment, without }) =>
        faultsOf(operation, transport, without).map((fault) => ({
          operation,
          transport,
          stage,
          moment,
          fault,
        })),
      ),
    ),
  );
}

function faultsOf(
  operation: OperationName,
  transport: TransportName,
  without: readonly Victim[],
): readonly Fault[] {
  const kills = KILLS.filter(
    (what) => !without.includes(what) && !(what === 'guest QEMU' && transport === 'stopped'),
  );
  const scratch = operation === 'backup' && transport === 'pull' ? SCRATCH_FAULTS : [];
  return [
    ...kills.map((what): Fault => ({ kind: 'kill -9', what })),
    ...NAS_FAULTS.map((what): Fault => ({ kind: 'NAS', what })),
    ...scratch.map((what): Fault => ({ kind: 'scratch', what })),
  ];
}

/**
 * Few cases that have each fault, each stage of each operation and each transport at least once. Those in the middle of
 * the copy, where most is at stake, are taken first when they bring as much as others.
 */
export function coveringCases(cases: readonly Case[] = allCases()): readonly Case[] {
  const missing = new Set(cases.flatMap(aspectsOf));
  const chosen = new Set<Case>();
  while (missing.size > 0) {
    const gain = (each: Case): number =>
      aspectsOf(each).filter((aspect) => missing.has(aspect)).length +
      (each.moment.kind === 'progress' ? 0.5 : 0);
    const best = cases.reduce((left, right) => (gain(right) > gain(left) ? right : left));
    chosen.add(best);
    for (const aspect of aspectsOf(best)) missing.delete(aspect);
  }
  return cases.filter((each) => chosen.has(each));
}

/** What a case is the first to show. */
export function aspectsOf({ operation, transport, stage, fault }: Case): readonly string[] {
  return [`${operation}: ${stage}`, `${operation} ${transport}`, faultName(fault)];
}

/** Every `of`th case, from the `index`th on: together they are all, and each share is as mixed as the whole. */
export function shard(cases: readonly Case[], index: number, of: number): readonly Case[] {
  return cases.filter((_, place) => place % of === index - 1);
}

/** Such as `kill -9 runner`. */
export function faultName({ kind, what }: Fault): string {
  return `${kind} ${what}`;
}

/** Names a case for ever: that by which a run that is resumed knows it again. */
export function caseName(each: Case): string {
  return `${each.operation} (${each.transport}), ${each.stage}: ${faultName(each.fault)}`;
}

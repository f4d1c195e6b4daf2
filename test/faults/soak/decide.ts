import { randomOf, type Random } from './random.ts';

export type Victim =
  'agent' | 'controller' | 'runner' | 'storage daemon' | 'libvirtd' | 'guest QEMU' | 'repository helper';

/** What is done to an operation while it runs. */
export type Interference =
  | { readonly kind: 'none' }
  | { readonly kind: 'kill'; readonly victim: Victim }
  | { readonly kind: 'cancel' }
  /** Paused for a moment. */
  | { readonly kind: 'pause' }
  | { readonly kind: 'set-bandwidth'; readonly mibps: number }
  /** Of the zone, which concerns later operations only. */
  | { readonly kind: 'change settings'; readonly values: Readonly<Record<string, string>> };

/** What happens in one step: all that does not depend on how the steps before it came out. */
export interface Decision {
  readonly step: number;
  readonly work: 'backup' | 'verify' | 'restore' | 'delete';
  /** Of which guest a backup is taken. */
  readonly guest: 'running' | 'stopped';
  /** For a backup. */
  readonly settings: Readonly<Record<string, string>>;
  /** Which of the backups that are there is worked on, from 0 (the newest) to below 1. */
  readonly which: number;
  readonly interference: Interference;
  /** The interference comes this long after so many events. */
  readonly afterEvents: number;
  readonly delayMs: number;
}

const CHECK = 'nas.backup.integrity.check';
const QUIESCE = 'nas.backup.quiesce';
const LIMIT = 'nas.backup.bandwidth.limit.mbps';

/** The decision of a step: the same for the same seed, whatever happened before. */
export function decide(seed: number, step: number): Decision {
  // A generator of its own for each step, so that none depends on how much chance another took.
  const random = randomOf((Math.imul(seed, 0x9e3779b1) + Math.imul(step, 0x85ebca6b)) >>> 0);
  return {
    step,
    work: random.pick([
      [6, 'backup'],
      [1, 'verify'],
      [2, 'restore'],
      [1, 'delete'],
    ]),
    guest: random.pick([
      [3, 'running'],
      [1, 'stopped'],
    ]),
    settings: backupSettings(random),
    which: random.below(1_000) / 1_000,
    interference: interference(random),
    afterEvents: random.below(8),
    delayMs: random.below(600),
  };
}

function backupSettings(random: Random): Record<string, string> {
  return {
    'nas.backup.transport': random.pick([
      [2, 'pull'],
      [1, 'push'],
    ]),
    'nas.backup.compression.enabled': flag(random),
    'nas.backup.encryption.enabled': flag(random),
    [CHECK]: flag(random),
    [QUIESCE]: random.pick([
      [1, 'off'],
      [1, 'required'],
    ]),
    [LIMIT]: String(8 + random.below(24)),
  };
}

function interference(random: Random): Interference {
  const kind = random.pick([
    [2, 'none'],
    [7, 'kill'],
    [2, 'cancel'],
    [1, 'pause'],
    [1, 'set-bandwidth'],
    [1, 'change settings'],
  ] as const);
  switch (kind) {
    case 'kill':
      return {
        kind,
        victim: random.pick<Victim>([
          [2, 'agent'],
          [2, 'runner'],
          [2, 'storage daemon'],
          [2, 'controller'],
          [2, 'libvirtd'],
          [1, 'guest QEMU'],
          [2, 'repository helper'],
        ]),
      };
    case 'set-bandwidth':
      return { kind, mibps: random.below(64) };
    case 'change settings':
      return { kind, values: { [CHECK]: flag(random), [LIMIT]: String(random.below(64)) } };
    default:
      return { kind };
  }
}

function flag(random: Random): string {
  return random.pick([
    [1, 'true'],
    [1, 'false'],
  ]);
}

/** A decision in a line, for the log. */
export function inWords({ work, guest, settings, interference: what, ...when }: Decision): string {
  const on = Object.entries(settings)
    .filter(([, value]) => value !== 'false' && value !== 'off')
    .map(([key, value]) => `${key.replace(/^nas\.backup\./, '')}=${value}`);
  const subject = work === 'backup' ? `of the ${guest} guest (${on.join(' ')})` : `at ${when.which}`;
  const done = what.kind === 'kill' ? `kill ${what.victim}` : what.kind;
  return `${work} ${subject}; ${done} ${when.delayMs} ms after event ${when.afterEvents}`;
}

import { SettingType } from '@holdfast/proto/holdfast/v1/setting.ts';
import { HoldfastError } from './errors.ts';

/** What is known of a setting before anyone sets it. */
export interface SettingDefinition {
  readonly type: SettingType;
  readonly defaultValue: string;
  readonly description: string;
  /** The values that are allowed, when they can be listed. */
  readonly values?: readonly string[];
  /** For whole numbers, both ends included. */
  readonly range?: readonly [min: number, max: number];
  /** For texts that cannot be listed. */
  readonly pattern?: { readonly expression: RegExp; readonly meaning: string };
  /** What all requests of a zone share cannot be set for one of them. */
  readonly shared?: true;
}

/** More at a time than any host or NAS takes. */
const MAX_CONCURRENCY = 100_000;

/** A MiB/s limit above this (1 TiB/s) is a typing error. */
export const MAX_BANDWIDTH_MIBPS = 1_048_576;

/** Ten years: longer than most backups are kept. */
const MAX_INTERVAL_DAYS = 3_650;

/** A day: who waits for longer wants to be told. */
const MAX_WAIT_MINUTES = 1_440;

/** Longer than any passphrase that a person keeps; a limit so that a request stays small. */
const MAX_PASSPHRASE_BYTES = 1_024;

/** A public key of age: bech32 of 32 bytes. */
const RECIPIENT = 'age1[02-9ac-hj-np-z]{58}';

/** Every setting, by its key. With all at their defaults a backup is a plain qcow2. */
export const settingDefinitions = {
  'nas.backup.compression.enabled': {
    type: SettingType.SETTING_TYPE_BOOLEAN,
    defaultValue: 'false',
    description: 'Compress the images inside the qcow2.',
  },
  'nas.backup.compression.algorithm': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'zstd',
    values: ['zstd', 'zlib'],
    description: 'How to compress: zstd, or zlib for readers older than QEMU 5.1.',
  },
  'nas.backup.encryption.enabled': {
    type: SettingType.SETTING_TYPE_BOOLEAN,
    defaultValue: 'false',
    description: 'Encrypt the images with LUKS; nothing unencrypted touches the repository.',
  },
  'nas.backup.encryption.passphrase': {
    type: SettingType.SETTING_TYPE_SECURE_STRING,
    defaultValue: '',
    description:
      "Opens the zone's key, and with it every encrypted backup of the zone. Can be set, never read.",
  },
  'nas.backup.encryption.escrow.recipients': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: '',
    pattern: {
      expression: new RegExp(`^(${RECIPIENT}([, ] *${RECIPIENT}){0,15})?$`),
      meaning: 'up to 16 public keys of age (age1...), with commas between them',
    },
    shared: true,
    description:
      "Public keys of age (age1...) that open every encrypted backup beside the zone's own key; changing them re-wraps the backups that are there.",
  },
  'nas.backup.bandwidth.limit.mbps': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '0',
    range: [0, MAX_BANDWIDTH_MIBPS],
    description: 'MiB of source data a second for one backup, all its disks together; 0 is unlimited.',
  },
  'nas.backup.bandwidth.enforce': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'fail',
    values: ['fail', 'warn'],
    description:
      'What to do when libvirt did not take a limit: fail the backup, or warn and go on without it.',
  },
  'nas.backup.integrity.check': {
    type: SettingType.SETTING_TYPE_BOOLEAN,
    defaultValue: 'false',
    description: 'Check the images with qemu-img before they are published; a failed check is not published.',
  },
  'nas.backup.integrity.level': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'metadata',
    values: ['metadata', 'stored', 'content', 'source'],
    description:
      'How far a check or a verification goes: the metadata of the images, the bytes stored, what the guest sees in them, or, for a check, that against the snapshot.',
  },
  'nas.backup.integrity.digests': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'stored',
    values: ['none', 'stored', 'content'],
    description:
      'The digests that are made of a backup: of the bytes stored, and of the content too, for which the snapshot is read twice.',
  },
  'nas.backup.plausibility.tolerance.percent': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '50',
    range: [0, 10_000],
    description:
      "By how much a backup's size, and by half of that its compression, may leave what its history lets expect; 0: no warning.",
  },
  'nas.backup.scrub.enabled': {
    type: SettingType.SETTING_TYPE_BOOLEAN,
    defaultValue: 'false',
    shared: true,
    description: 'Verify the backups of each repository by and by, the one whose proof is oldest first.',
  },
  'nas.backup.scrub.interval.days': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '30',
    range: [1, MAX_INTERVAL_DAYS],
    shared: true,
    description:
      'A backup is verified again when its last proof, or without one its snapshot, is older than so many days.',
  },
  'nas.backup.scrub.window': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: '',
    pattern: {
      expression: /^(([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d)?$/,
      meaning: 'empty or two times of the day such as 22:00-06:00',
    },
    shared: true,
    description:
      'When scrubs may begin, as two times of the day in UTC such as 22:00-06:00; empty: at any time.',
  },
  'nas.backup.scrub.level': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'stored',
    values: ['metadata', 'stored', 'content'],
    shared: true,
    description:
      'At which level scrubs verify; a backup without the digests for it is verified at the next one below.',
  },
  'nas.backup.scrub.sample.percent': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '100',
    range: [1, 100],
    shared: true,
    description: 'What part of a backup a scrub reads, the next part with each one.',
  },
  'nas.backup.scrub.bandwidth.limit.mbps': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '100',
    range: [0, MAX_BANDWIDTH_MIBPS],
    shared: true,
    description: 'MiB a second that the scrub of a repository reads; 0 is unlimited.',
  },
  'nas.backup.quiesce': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'off',
    values: ['off', 'best-effort', 'required'],
    description: "Freeze the guest's file systems around the snapshot, through the guest agent.",
  },
  'nas.backup.transport': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'auto',
    values: ['auto', 'pull', 'push'],
    description:
      'How the data of a running domain is taken: pull needs scratch space, push needs none, auto pulls when there is enough.',
  },
  'nas.backup.repository.stalled': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: 'wait',
    values: ['wait', 'fail'],
    description: 'What to do when the repository does not answer: wait for it, or fail.',
  },
  'nas.backup.repository.stalled.minutes': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '10',
    range: [1, MAX_WAIT_MINUTES],
    description: 'For how many minutes to wait for a repository that does not answer.',
  },
  'nas.backup.repository.reserve.percent': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '1',
    range: [0, 90],
    description: 'What part of the repository stays free: a backup that would use it fails.',
  },
  'nas.backup.timeout.minutes': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '60',
    range: [0, MAX_WAIT_MINUTES],
    description: 'A backup, verification or restore in which nothing has moved for so long fails; 0: never.',
  },
  'nas.backup.bandwidth.zone.limit.mbps': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '0',
    range: [0, MAX_BANDWIDTH_MIBPS],
    shared: true,
    description:
      'MiB a second that the running backups, verifications and restores of a zone read together, divided anew as they come and go; 0 is unlimited.',
  },
  'nas.backup.concurrency.per.host': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '0',
    range: [0, MAX_CONCURRENCY],
    shared: true,
    description: 'How many operations run on one host at a time, the others wait; 0 is any number.',
  },
  'nas.backup.concurrency.per.repository': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '0',
    range: [0, MAX_CONCURRENCY],
    shared: true,
    description: 'How many operations work on one repository at a time, the others wait; 0 is any number.',
  },
  'nas.backup.concurrency.per.zone': {
    type: SettingType.SETTING_TYPE_INTEGER,
    defaultValue: '0',
    range: [0, MAX_CONCURRENCY],
    shared: true,
    description: 'How many operations run in a zone at a time, the others wait; 0 is any number.',
  },
  'nas.backup.placement.label': {
    type: SettingType.SETTING_TYPE_STRING,
    defaultValue: '',
    pattern: {
      expression: /^([\w./-]{1,63}(=[^=\0\n\r]{0,255})?)?$/,
      meaning: 'empty, a label or label=value',
    },
    shared: true,
    description:
      'The label (key or key=value) of the hosts that do the work which any host could do; empty: any host.',
  },
} as const satisfies Record<string, SettingDefinition>;

export type SettingKey = keyof typeof settingDefinitions;

export const settingKeys = Object.keys(settingDefinitions) as readonly SettingKey[];

/** Whether a text is the key of a setting. */
export function isSettingKey(text: string): text is SettingKey {
  return Object.hasOwn(settingDefinitions, text);
}

/**
 * The value in the one form in which it is stored (`true`, `40`), or an error that names the key and the reason and,
 * for a secure one, not the value.
 *
 * @throws HoldfastError SETTING_UNKNOWN, SETTING_INVALID
 */
export function parseSetting(
  key: string,
  value: string,
): { readonly key: SettingKey; readonly value: string } {
  if (!isSettingKey(key)) {
    throw new HoldfastError(
      'SETTING_UNKNOWN',
      `There is no setting ${JSON.stringify(key)}. The settings are ${settingKeys.join(', ')}.`,
    );
  }
  const definition: SettingDefinition = settingDefinitions[key];
  const refuse = (expected: string): HoldfastError =>
    new HoldfastError('SETTING_INVALID', `${key} must be ${expected}, not ${JSON.stringify(value)}.`, {
      metadata: { key },
    });
  switch (definition.type) {
    case SettingType.SETTING_TYPE_BOOLEAN: {
      const lower = value.toLowerCase();
      if (lower !== 'true' && lower !== 'false') throw refuse('true or false');
      return { key, value: lower };
    }
    case SettingType.SETTING_TYPE_INTEGER: {
      const [min, max] = definition.range ?? [0, Number.MAX_SAFE_INTEGER];
      if (!/^-?\d{1,15}$/.test(value) || Number(value) < min || Number(value) > max) {
        throw refuse(`a whole number from ${min} to ${max}`);
      }
      return { key, value: String(Number(value)) };
    }
    case SettingType.SETTING_TYPE_SECURE_STRING: {
      if (
        Buffer.byteLength(value) > MAX_PASSPHRASE_BYTES ||
        !value.isWellFormed() ||
        /[\0\n\r]/.test(value)
      ) {
        throw new HoldfastError(
          'SETTING_INVALID',
          `${key} must be one line of at most ${MAX_PASSPHRASE_BYTES} bytes.`,
          { metadata: { key } },
        );
      }
      return { key, value };
    }
    default: {
      if (definition.values?.includes(value) === false)
        throw refuse(`one of ${definition.values.join(', ')}`);
      if (definition.pattern?.expression.test(value) === false) throw refuse(definition.pattern.meaning);
      return { key, value };
    }
  }
}

/** Whether a setting holds for what all requests of a zone share, so that no single one can set it. */
export function isShared(key: SettingKey): boolean {
  const definition: SettingDefinition = settingDefinitions[key];
  return definition.shared === true;
}

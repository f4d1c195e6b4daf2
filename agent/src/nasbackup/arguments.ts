import { isAbsolute } from 'node:path';
import { parseArgs } from 'node:util';
import { MAX_BANDWIDTH_MIBPS } from '@holdfast/common/settings.ts';

/** The arguments make no sense; the message says which. Nothing was touched. */
export class UsageError extends Error {
  override readonly name = 'UsageError';
}

/** A repository as CloudStack names it: the arguments of mount(8). */
export interface NasStorage {
  readonly type: string;
  readonly address: string;
  readonly mountOptions: string;
}

/** What the program is asked to do. */
export type Request =
  | BackupRequest
  | { readonly operation: 'delete'; readonly storage: NasStorage; readonly folder: string }
  | { readonly operation: 'stats'; readonly storage: NasStorage }
  | { readonly operation: 'help' };

export interface BackupRequest {
  readonly operation: 'backup';
  readonly storage: NasStorage;
  readonly domain: string;
  /** The backup's folder, relative to the repository. */
  readonly folder: string;
  /** The volumes of a domain that may be stopped; empty when CloudStack knows it to run. */
  readonly volumes: readonly string[];
  readonly quiesce: boolean;
  readonly compress: boolean;
  /** MiB/s; 0 is unlimited. */
  readonly bandwidthMibps: number;
  /** The file whose bytes are the passphrase; empty without encryption. */
  readonly passphraseFile: string;
  readonly verify: boolean;
  /** Whether an incremental backup was asked for. */
  readonly incremental: boolean;
}

const STORAGE_TYPES: readonly string[] = ['nfs', 'cifs', 'ceph', 'local'];

/** The flags, with what each of them belongs to. */
const options = {
  operation: { type: 'string', short: 'o' },
  vm: { type: 'string', short: 'v' },
  type: { type: 'string', short: 't' },
  storage: { type: 'string', short: 's' },
  mount: { type: 'string', short: 'm' },
  path: { type: 'string', short: 'p' },
  quiesce: { type: 'string', short: 'q' },
  diskpaths: { type: 'string', short: 'd' },
  compress: { type: 'boolean', short: 'c' },
  bandwidth: { type: 'string', short: 'b' },
  encrypt: { type: 'string', short: 'e' },
  verify: { type: 'boolean' },
  mode: { type: 'string', short: 'M' },
  'bitmap-new': { type: 'string' },
  'bitmap-parent': { type: 'string' },
  'parent-paths': { type: 'string' },
  help: { type: 'boolean', short: 'h' },
} as const;

type Flag = keyof typeof options;
type Values = Readonly<Partial<Record<Flag, string | boolean>>>;

/** What a deletion and a question for space are told, whether they need it or not. */
const PLACE: readonly string[] = ['operation', 'vm', 'type', 'storage', 'mount', 'path'];

/**
 * Reads the arguments of CloudStack's nasbackup.sh.
 *
 * @throws UsageError
 */
export function readArguments(args: readonly string[]): Request {
  const values = valuesOf(args);
  if (values.help === true) return { operation: 'help' };
  const operation = text(values, 'operation');
  if (operation === 'backup') return backupRequest(values);
  if (operation !== 'delete' && operation !== 'stats') {
    throw new UsageError(
      operation === ''
        ? 'The operation is missing: -o backup, -o delete or -o stats.'
        : `There is no operation ${JSON.stringify(operation)}: -o backup, -o delete or -o stats.`,
    );
  }
  const stray = Object.keys(values).find((flag) => !PLACE.includes(flag) && values[flag as Flag] !== '');
  if (stray !== undefined) throw new UsageError(`--${stray} does not go with -o ${operation}.`);
  const storage = storageOf(values);
  return operation === 'stats' ? { operation, storage } : { operation, storage, folder: folderOf(values) };
}

function valuesOf(args: readonly string[]): Values {
  try {
    const { values, tokens } = parseArgs({ args: [...args], options, tokens: true });
    const seen = new Set<string>();
    for (const token of tokens) {
      if (token.kind !== 'option') continue;
      if (seen.has(token.name)) throw new UsageError(`${token.rawName} is given twice.`);
      seen.add(token.name);
    }
    return values;
  } catch (error) {
    if (error instanceof UsageError || !(error instanceof Error)) throw error;
    // Node's sentence may repeat the value that it met, which may be a secret.
    throw new UsageError(error.message.split('\n')[0]?.split('. ')[0] ?? 'The arguments cannot be read');
  }
}

function backupRequest(values: Values): BackupRequest {
  const domain = text(values, 'vm');
  if (domain === '') throw new UsageError('The VM is missing: -v NAME.');
  const passphraseFile = text(values, 'encrypt');
  if (values.encrypt === '') throw new UsageError('-e needs the file with the passphrase.');
  const compress = values.compress === true;
  return {
    operation: 'backup',
    domain,
    storage: storageOf(values),
    folder: folderOf(values),
    volumes: volumesOf(text(values, 'diskpaths')),
    quiesce: quiesceOf(text(values, 'quiesce')),
    compress,
    bandwidthMibps: bandwidthOf(text(values, 'bandwidth')),
    passphraseFile,
    verify: values.verify === true,
    incremental: isIncremental(values, compress || passphraseFile !== ''),
  };
}

function storageOf(values: Values): NasStorage {
  const type = text(values, 'type');
  if (!STORAGE_TYPES.includes(type)) {
    throw new UsageError(
      type === ''
        ? 'The type of the storage is missing: -t nfs, cifs or ceph.'
        : `The storage cannot be of type ${JSON.stringify(type)}: -t nfs, cifs or ceph.`,
    );
  }
  const address = text(values, 'storage');
  if (address === '') throw new UsageError('The address of the storage is missing: -s ADDRESS.');
  return { type, address, mountOptions: text(values, 'mount') };
}

/** The script puts the path behind its mount point, so slashes around it mean nothing; to lead out of there is an error. */
function folderOf(values: Values): string {
  const given = text(values, 'path');
  const parts = given.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.length === 0) throw new UsageError('The path of the backup on the storage is missing: -p PATH.');
  if (parts.includes('..')) {
    throw new UsageError(
      `The path ${JSON.stringify(given)} has .. in it; a backup lies inside of its storage.`,
    );
  }
  return parts.join('/');
}

/**
 * The paths are joined by commas, and a path may have one in it. Every path begins with a slash, or with rbd:, so a comma
 * before anything else belongs to the path.
 */
function volumesOf(given: string): readonly string[] {
  if (given === '') return [];
  const volumes = given.split(/,(?=\/|rbd:)/);
  if (volumes.every((volume) => isAbsolute(volume) || volume.startsWith('rbd:'))) return volumes;
  throw new UsageError('-d needs absolute paths, or names that start with rbd:, joined by commas.');
}

function quiesceOf(given: string): boolean {
  if (given === '' || given === 'true' || given === 'false') return given === 'true';
  throw new UsageError(`-q is true or false, not ${JSON.stringify(given)}.`);
}

function bandwidthOf(given: string): number {
  if (given === '') return 0;
  const limit = Number(given);
  if (/^\d+$/.test(given) && limit <= MAX_BANDWIDTH_MIBPS) return limit;
  throw new UsageError(
    `-b is a whole number of MiB a second from 0 (unlimited) to ${MAX_BANDWIDTH_MIBPS}, not ${JSON.stringify(given)}.`,
  );
}

/** What each mode needs and what it excludes is as in the script, but checked before anything is touched. */
function isIncremental(values: Values, rewrites: boolean): boolean {
  const mode = text(values, 'mode');
  const isGiven = (flag: Flag): boolean => text(values, flag) !== '';
  const refuse = (message: string): never => {
    throw new UsageError(message);
  };
  switch (mode) {
    case 'incremental':
      for (const flag of ['bitmap-new', 'bitmap-parent', 'parent-paths'] as const) {
        if (!isGiven(flag)) refuse(`-M incremental needs --${flag}.`);
      }
      if (rewrites) refuse('-M incremental cannot be combined with compression (-c) or encryption (-e).');
      return true;
    case 'full':
      if (!isGiven('bitmap-new')) refuse('-M full needs --bitmap-new.');
      break;
    case '':
    case 'legacy-full':
      if (isGiven('bitmap-new')) refuse('--bitmap-new goes with -M full or -M incremental only.');
      break;
    default:
      refuse(`There is no mode ${JSON.stringify(mode)}: -M full or -M incremental.`);
  }
  for (const flag of ['bitmap-parent', 'parent-paths'] as const) {
    if (isGiven(flag)) refuse(`--${flag} goes with -M incremental only.`);
  }
  return false;
}

/** A flag's value; empty when it was not given. CloudStack gives an empty one for what it does not have. */
function text(values: Values, flag: Flag): string {
  const value = values[flag];
  return typeof value === 'string' ? value : '';
}

import { isManifestMac, sha256 } from '@holdfast/common/manifestDigest.ts';
import {
  ScannedFolderState,
  type ScannedFolder,
  type ScannedKey,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { Operation, OperationKind } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  RescanFinding,
  RescanOutcome,
  type Repository,
  type RescanRepositoryRequest,
  type RescanRepositoryResponse,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Repositories } from '../fleet/repositories.ts';
import { recipientCount } from '../keys/age.ts';
import { UNKNOWN_ESCROW } from '../keys/escrow.ts';
import { integerOf } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import type { Keys } from '../keys/keys.ts';
import { noteMissingKey } from '../keys/missing.ts';
import type { Db, Store, Trx } from '../store/store.ts';
import { insertBackup, type PublishedBackup } from './backups.ts';

const {
  RESCAN_OUTCOME_IMPORTED,
  RESCAN_OUTCOME_FOREIGN,
  RESCAN_OUTCOME_UNFINISHED,
  RESCAN_OUTCOME_DAMAGED,
  RESCAN_OUTCOME_MOVED,
  RESCAN_OUTCOME_DIFFERENT,
  RESCAN_OUTCOME_BUSY,
  RESCAN_OUTCOME_MISSING,
} = RescanOutcome;

export interface RescanParts {
  readonly store: Store;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly settings: Settings;
  readonly now: () => Date;
}

/** A folder with a backup that may be entered. */
interface Candidate {
  readonly backup: PublishedBackup;
  readonly authentic: boolean;
  readonly message: string;
}

/** How candidates are entered. */
interface Entering {
  /** When the scan began. */
  readonly begin: Date;
  readonly dryRun: boolean;
  /** The ids of those that were entered, or would have been. */
  readonly entered: Set<string>;
  readonly tolerancePercent: number;
}

/** What a candidate, or something else, turned out to be. */
type Verdict = RescanFinding | 'known';

/**
 * Enters what lies in a repository into the catalogue. Ends early, without harm, when the caller goes away.
 *
 * @throws HoldfastError REPOSITORY_NOT_FOUND, AGENT_UNREACHABLE, REPOSITORY_STALLED, and what is wrong with the repository
 */
export async function* rescanRepository(
  parts: RescanParts,
  { name, dryRun }: RescanRepositoryRequest,
  { correlationId, signal }: { readonly correlationId: string; readonly signal: AbortSignal },
): AsyncGenerator<RescanRepositoryResponse, void, undefined> {
  const { store, repositories, now } = parts;
  const repository = await repositories.find(name);
  const begin = now();
  const settings = await parts.settings.resolve(repository.zone);
  const tolerancePercent = Number(integerOf(settings, 'nas.backup.plausibility.tolerance.percent'));
  const unseen = await pathsIn(store.db, name);
  const entered = new Set<string>();
  const figures = { folders: 0n, imported: 0n, known: 0n, others: 0n, done: false };
  const tell = (finding: RescanFinding): RescanRepositoryResponse => {
    if (finding.outcome === RESCAN_OUTCOME_IMPORTED) figures.imported += 1n;
    else figures.others += 1n;
    return { message: { $case: 'finding', value: finding } };
  };

  for await (const folders of repositories.scan(repository, correlationId, signal)) {
    const verdicts: Verdict[] = [];
    const candidates: Candidate[] = [];
    for (const folder of folders) {
      const backupId = unseen.get(folder.path) ?? '';
      unseen.delete(folder.path);
      const judged = await judge(parts, repository, folder, backupId);
      if ('outcome' in judged) verdicts.push(judged);
      else candidates.push(judged);
    }
    const enter = (trx: Trx): Promise<Verdict[]> =>
      enterAll(trx, candidates, { begin, dryRun, entered, tolerancePercent });
    verdicts.push(...(candidates.length === 0 ? [] : await store.transact(enter)));
    figures.folders += BigInt(folders.length);
    for (const verdict of verdicts) {
      if (verdict === 'known') figures.known += 1n;
      else yield tell(verdict);
    }
    yield { message: { $case: 'figures', value: { ...figures } } };
  }
  for (const [path, id] of unseen) {
    const finding = await missing(store.db, name, path, id);
    if (finding !== undefined) yield tell(finding);
  }
  yield { message: { $case: 'figures', value: { ...figures, done: true } } };
}

/** What the catalogue knows to lie in a repository: the ids of backups by their folders. */
async function pathsIn(db: Db, repository: string): Promise<Map<string, string>> {
  const rows = await db
    .selectFrom('backups')
    .select(['id', 'path'])
    .where('repository', '=', repository)
    .execute();
  return new Map(rows.map(({ id, path }) => [path, id]));
}

/** Looks at a folder by itself: whether it could be entered. */
async function judge(
  { keys, store }: RescanParts,
  repository: Repository,
  folder: ScannedFolder,
  backupId: string,
): Promise<RescanFinding | Candidate> {
  const { path, state, message, manifestJson: bytes } = folder;
  if (state !== ScannedFolderState.SCANNED_FOLDER_STATE_BACKUP) {
    return RescanFinding.fromPartial({ outcome: outcomeOf(state), path, backupId, message });
  }
  const manifest = Manifest.fromJSON(JSON.parse(Buffer.from(bytes).toString('utf8')));
  const about = { path, backupId: manifest.backupId, domainName: manifest.domainName };
  if (manifest.zone !== repository.zone) {
    const why = `It was taken in zone ${JSON.stringify(manifest.zone)}, and the repository is of zone ${repository.zone}.`;
    return RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_FOREIGN, message: why });
  }
  const damaged = (why: string): RescanFinding =>
    RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_DAMAGED, message: why });
  if (manifest.snapshotTime === undefined) return damaged('Its manifest does not say when it was taken.');
  const candidate = (key: ScannedKey | undefined, authentic: boolean, text = ''): Candidate => ({
    backup: {
      id: manifest.backupId,
      zone: manifest.zone,
      host: manifest.host,
      repository: repository.name,
      result: { path, manifest, manifestSha256: sha256(bytes), filesBytes: 0n },
      manifest,
      // A file for the zone's key alone is for no escrow.
      escrowId: key !== undefined && recipientCount(key.wrappedKey) === 1 ? '' : UNKNOWN_ESCROW,
      key,
    },
    authentic,
    message: text,
  });
  if (manifest.encryption === undefined) return candidate(undefined, false);

  const known = await knownKeys(store.db, folder.keys);
  const [key = folder.keys[0]] = known;
  if (key === undefined) return damaged('The file with its key is missing.');
  if (known.length === 0) {
    return candidate(
      key,
      false,
      `Zone key ${key.keyId} is not known to this controller: until it is, the backup cannot be restored here (KEY_MISSING).`,
    );
  }
  try {
    const secret = await keys.unwrap(key.keyId, key.wrappedKey);
    if (!isManifestMac(folder.manifestMac, bytes, secret))
      return damaged("Its manifest is not authentic: the MAC does not fit the backup's key.");
  } catch (error) {
    return damaged(
      `Zone key ${key.keyId} does not open its key: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
  return candidate(key, true);
}

function outcomeOf(state: ScannedFolderState): RescanOutcome {
  switch (state) {
    case ScannedFolderState.SCANNED_FOLDER_STATE_UNFINISHED:
      return RESCAN_OUTCOME_UNFINISHED;
    case ScannedFolderState.SCANNED_FOLDER_STATE_MOVED:
      return RESCAN_OUTCOME_MOVED;
    case ScannedFolderState.SCANNED_FOLDER_STATE_DAMAGED:
      return RESCAN_OUTCOME_DAMAGED;
    default:
      return RESCAN_OUTCOME_FOREIGN;
  }
}

/** Those keys of a backup that a known zone key opens. */
async function knownKeys(db: Db, keys: readonly ScannedKey[]): Promise<ScannedKey[]> {
  const ids = keys.map(({ keyId }) => keyId);
  const rows =
    ids.length === 0
      ? []
      : await db
          .selectFrom('keys')
          .select('id')
          .where('id', 'in', ids)
          .where('state', 'in', ['active', 'retiring'])
          .execute();
  return keys.filter(({ keyId }) => rows.some(({ id }) => id === keyId));
}

/** Compares with the catalogue and enters what it does not know, in one transaction. */
async function enterAll(
  trx: Trx,
  candidates: readonly Candidate[],
  { begin, dryRun, entered, tolerancePercent }: Entering,
): Promise<Verdict[]> {
  const ids = candidates.map(({ backup }) => backup.id);
  const rows = await trx
    .selectFrom('backups')
    .select(['id', 'repository', 'path', 'manifest_sha256'])
    .where('id', 'in', ids)
    .execute();
  const operations = await trx
    .selectFrom('operations')
    .select(['id', 'backup_id', 'kind', 'active', 'operation_message'])
    .where('backup_id', 'in', ids)
    .where((where) =>
      where.or([where('active', '=', 1), where('kind', '=', OperationKind.OPERATION_KIND_DELETE_BACKUP)]),
    )
    .execute();
  const verdicts: Verdict[] = [];
  for (const { backup, authentic, message } of candidates) {
    const about = { path: backup.result.path, backupId: backup.id, domainName: backup.manifest.domainName };
    const row = rows.find(({ id }) => id === backup.id);
    const busy = operations.find((each) => each.backup_id === backup.id && isInTheWay(each, begin));
    if (row !== undefined) {
      verdicts.push(compare(row, backup, about));
    } else if (busy !== undefined) {
      const why = `Operation ${busy.id} works on it, or has just deleted it.`;
      verdicts.push(RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_BUSY, message: why }));
    } else if (entered.has(backup.id)) {
      const why =
        'The same backup lies in another folder of the repository, which was entered. Nothing was changed.';
      verdicts.push(RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_MOVED, message: why }));
    } else {
      if (!dryRun) {
        if (backup.key !== undefined) await noteMissingKey(trx, backup.zone, backup.key.keyId, begin);
        await insertBackup(trx, backup, begin, tolerancePercent);
      }
      entered.add(backup.id);
      verdicts.push({ ...about, outcome: RESCAN_OUTCOME_IMPORTED, message, authentic });
    }
  }
  return verdicts;
}

/** Whether an operation may have changed the folder since it was read. */
function isInTheWay(
  { active, operation_message: bytes }: { readonly active: number; readonly operation_message: Uint8Array },
  begin: Date,
): boolean {
  if (active === 1) return true;
  const { endTime } = Operation.decode(bytes);
  return endTime !== undefined && endTime >= begin;
}

function compare(
  row: { readonly repository: string; readonly path: string; readonly manifest_sha256: string },
  { repository, result }: PublishedBackup,
  about: Pick<RescanFinding, 'path' | 'backupId' | 'domainName'>,
): Verdict {
  if (row.repository !== repository || row.path !== result.path) {
    const message = `The catalogue knows this backup in ${row.path} of repository ${row.repository}: this is a copy.`;
    return RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_MOVED, message });
  }
  if (row.manifest_sha256 === result.manifestSha256) return 'known';
  const message =
    `Its manifest has SHA-256 ${result.manifestSha256}, and the catalogue has ${row.manifest_sha256}: it was edited, ` +
    'swapped or rolled back. The catalogue was left as it is.';
  return RescanFinding.fromPartial({ ...about, outcome: RESCAN_OUTCOME_DIFFERENT, message });
}

/** A backup that was known before the scan and was not seen, if it is known still and nobody works on it. */
async function missing(
  db: Db,
  repository: string,
  path: string,
  id: string,
): Promise<RescanFinding | undefined> {
  const row = await db
    .selectFrom('backups')
    .select('domain_name')
    .where('id', '=', id)
    .where('repository', '=', repository)
    .where('path', '=', path)
    .executeTakeFirst();
  if (row === undefined) return undefined;
  const operation = await db
    .selectFrom('operations')
    .select('id')
    .where('backup_id', '=', id)
    .where('active', '=', 1)
    .where('kind', '=', OperationKind.OPERATION_KIND_DELETE_BACKUP)
    .executeTakeFirst();
  if (operation !== undefined) return undefined;
  return RescanFinding.fromPartial({
    outcome: RESCAN_OUTCOME_MISSING,
    path,
    backupId: id,
    domainName: row.domain_name,
    message:
      'The catalogue knows it, and its folder is not there. If it is lost for good, forget it: holdfast delete ' +
      id,
  });
}

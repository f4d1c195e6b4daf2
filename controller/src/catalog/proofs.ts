import { digestsAt } from '@holdfast/common/digestLists.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { BackupTable } from '../store/schema.ts';
import type { Trx } from '../store/store.ts';

/**
 * What a level proves. Bytes that are as they were written have the metadata that they had; what the guest sees needs not all
 * bytes of a file.
 */
const PROVED: Readonly<Record<string, readonly string[]>> = {
  metadata: ['metadata'],
  stored: ['metadata', 'stored'],
  content: ['metadata', 'content'],
  source: ['metadata', 'content'],
};

/** The levels at which a published backup can be proved, each with those to fall back on where digests are missing. */
const PROVABLE = {
  metadata: ['metadata'],
  stored: ['stored', 'metadata'],
  content: ['content', 'stored', 'metadata'],
} as const;

export type ProvableLevel = keyof typeof PROVABLE;

/** The wanted level, or the next one below for which the backup has digests. */
export function provableLevel(manifest: Manifest, wanted: ProvableLevel): ProvableLevel {
  return (
    PROVABLE[wanted].find((level) => manifest.disks.every((disk) => digestsAt(level, disk) !== undefined)) ??
    'metadata'
  );
}

/** The column with the time since when a backup is not proved at a level. */
export function unprovedSinceColumn<Level extends ProvableLevel>(level: Level): `${Level}_unproved_since` {
  return `${level}_unproved_since`;
}

/** What a verification found. */
export interface Verification {
  readonly time: Date;
  readonly level: string;
  /** What part of the backup was looked at; 100 is all of it. */
  readonly samplePercent: number;
  readonly operationId: string;
  readonly intact: boolean;
  /** What was found, when it is not intact. */
  readonly message: string;
  /** Whether a scrub proved it: one that takes a part each time proves all of it in its own time. */
  readonly scrub: boolean;
}

type ProofColumns = Pick<
  BackupTable,
  'proof_time' | 'proof_level' | 'proof_operation' | 'proof_sample_percent'
>;
type UnprovedColumns = Pick<
  BackupTable,
  'metadata_unproved_since' | 'stored_unproved_since' | 'content_unproved_since'
>;
type DamageColumns = Pick<BackupTable, 'damage_time' | 'damage_level' | 'damage_operation' | 'damage_text'>;

/** What says of a backup that it cannot be relied on. */
const DAMAGE: readonly string[] = ['BACKUP_DAMAGED', 'CHECK_FAILED', 'BACKUP_NOT_FOUND'];

/** Whether a verification that failed for a reason found damage; otherwise it could not look. */
export function isDamage(reason: string): boolean {
  return DAMAGE.includes(reason);
}

/** The proof that a backup was given while it was taken. It is as old as the snapshot, whenever it is entered. */
export function insertedProof(manifest: Manifest, snapshotTime: string): Partial<ProofColumns> {
  return manifest.checked
    ? proved(
        { level: manifest.checkLevel || 'metadata', samplePercent: 100, operationId: manifest.operationId },
        snapshotTime,
      )
    : {};
}

/** Since when a new backup is unproved: its snapshot, but by a clock that is fast no later than now. */
export function insertedUnproved(snapshotTime: string, now: Date): UnprovedColumns {
  const since = [snapshotTime, now.toISOString()].toSorted()[0] ?? snapshotTime;
  return { metadata_unproved_since: since, stored_unproved_since: since, content_unproved_since: since };
}

/**
 * Notes what a verification found, in the transaction that ends its operation. A backup that was found damaged stays so
 * until all of it is proved again at each level that found damage.
 *
 * @param now by the controller's clock, by which scrubs go; the time of the finding is by the host's
 */
export async function noteVerification(
  trx: Trx,
  backupId: string,
  found: Verification,
  now: Date,
): Promise<void> {
  const row = await trx
    .selectFrom('backups')
    .select(['damage_time', 'damage_level', 'manifest_message'])
    .where('id', '=', backupId)
    .executeTakeFirst();
  if (row === undefined) return;
  const time = found.time.toISOString();
  await trx
    .updateTable('backups')
    .set({
      verify_time: time,
      verify_level: found.level,
      verify_intact: found.intact ? 1 : 0,
      verify_text: found.message,
      ...(found.intact ? proved(found, time) : {}),
      ...unprovedAfter(Manifest.decode(row.manifest_message), found, now),
      ...damageAfter(row, found),
    })
    .where('id', '=', backupId)
    .execute();
}

function proved(
  { level, samplePercent, operationId }: Pick<Verification, 'level' | 'samplePercent' | 'operationId'>,
  time: string,
): ProofColumns {
  return {
    proof_time: time,
    proof_level: level,
    proof_operation: operationId,
    proof_sample_percent: samplePercent,
  };
}

/** Each level at which the backup is proved now, as far as its digests go. */
function unprovedAfter(manifest: Manifest, found: Verification, now: Date): Partial<UnprovedColumns> {
  if (!found.intact || (found.samplePercent < 100 && !found.scrub)) return {};
  const levels = Object.keys(PROVABLE) as ProvableLevel[];
  const proved = levels.filter((level) => proves(found.level, provableLevel(manifest, level)));
  return Object.fromEntries(proved.map((level) => [unprovedSinceColumn(level), now.toISOString()]));
}

function damageAfter(
  before: Pick<BackupTable, 'damage_time' | 'damage_level'>,
  found: Verification,
): Partial<DamageColumns> {
  if (!found.intact) {
    return {
      damage_time: found.time.toISOString(),
      damage_level: [...new Set([...levelsIn(before), found.level])].join(', '),
      damage_operation: found.operationId,
      damage_text: found.message,
    };
  }
  if (found.samplePercent < 100) return {};
  const left = levelsIn(before).filter((level) => !proves(found.level, level));
  return left.length === 0
    ? { damage_time: null, damage_level: null, damage_operation: null, damage_text: null }
    : { damage_level: left.join(', ') };
}

/** The levels at which damage was found. */
function levelsIn({ damage_level: levels }: Pick<BackupTable, 'damage_level'>): readonly string[] {
  return (levels ?? '').split(', ').filter((level) => level !== '');
}

/** Whether a verification at a level proves another one too; a level that is not known proves nothing. */
function proves(level: string, other: string): boolean {
  return PROVED[level]?.includes(other) ?? false;
}

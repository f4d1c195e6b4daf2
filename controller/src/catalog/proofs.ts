import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
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
}

type ProofColumns = Pick<
  BackupTable,
  | 'proof_time'
  | 'proof_level'
  | 'proof_operation'
  | 'proof_sample_percent'
  | 'metadata_proof_time'
  | 'stored_proof_time'
  | 'content_proof_time'
>;
type DamageColumns = Pick<BackupTable, 'damage_time' | 'damage_level' | 'damage_operation' | 'damage_text'>;

/** The proof that a backup was given while it was taken. It is as old as the snapshot, whenever it is entered. */
export function insertedProof(manifest: Manifest, snapshotTime: string): Partial<ProofColumns> {
  return manifest.checked
    ? proved(
        { level: manifest.checkLevel || 'metadata', samplePercent: 100, operationId: manifest.operationId },
        snapshotTime,
      )
    : {};
}

/**
 * Notes what a verification found, in the transaction that ends its operation. A backup that was found damaged stays so
 * until all of it is proved again at each level that found damage.
 */
export async function noteVerification(trx: Trx, backupId: string, found: Verification): Promise<void> {
  const row = await trx
    .selectFrom('backups')
    .select(['damage_time', 'damage_level'])
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
      ...damageAfter(row, found),
    })
    .where('id', '=', backupId)
    .execute();
}

function proved(
  { level, samplePercent, operationId }: Pick<Verification, 'level' | 'samplePercent' | 'operationId'>,
  time: string,
): Partial<ProofColumns> {
  return {
    proof_time: time,
    proof_level: level,
    proof_operation: operationId,
    proof_sample_percent: samplePercent,
    metadata_proof_time: time,
    ...(proves(level, 'stored') ? { stored_proof_time: time } : {}),
    ...(proves(level, 'content') ? { content_proof_time: time } : {}),
  };
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

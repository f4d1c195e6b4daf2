import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { LeftoverKind, LeftoverState, type Leftover } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { partialBackupId } from '../repository/layout.ts';
import type { Repository } from '../repository/repository.ts';
import type { UnfinishedEntry } from '../repository/unfinished.ts';

const { LEFTOVER_KIND_PARTIAL_BACKUP, LEFTOVER_KIND_TEMPORARY_FILE } = LeftoverKind;
const { LEFTOVER_STATE_REMOVABLE, LEFTOVER_STATE_KEPT, LEFTOVER_STATE_UNDECIDED } = LeftoverState;

/** Somebody waits for the answer, and other repositories have been asked at the same time. */
const PATIENCE_MS = 15_000;
const DAY_MS = 86_400_000;

/**
 * Looks for what interrupted jobs of any host have left in a repository. Changes nothing.
 *
 * @throws HoldfastError REPOSITORY_STALLED soon when it does not answer, and what it answers.
 */
export async function leftInRepository(
  repository: Repository,
  nowMs: number,
  patienceMs = PATIENCE_MS,
): Promise<readonly Leftover[]> {
  const entries = await within(repository, patienceMs, repository.unfinished());
  return entries.map((entry) => leftover(repository.name, entry, nowMs));
}

/**
 * Removes leftovers that are found again. Of an undecided one the caller knows that nobody works on it.
 *
 * @returns what became of each
 */
export async function removeFromRepository(
  repository: Repository,
  wanted: readonly Leftover[],
  nowMs: number,
): Promise<readonly Leftover[]> {
  const before = await leftInRepository(repository, nowMs);
  const failures = new Map<string, string>();
  for (const { kind, name, state } of before) {
    if (state === LEFTOVER_STATE_KEPT || !wanted.some((each) => each.kind === kind && each.name === name))
      continue;
    try {
      if (kind === LEFTOVER_KIND_PARTIAL_BACKUP) await repository.removeFolder(name);
      else await repository.removeTemporary(name);
    } catch (error) {
      failures.set(name, error instanceof Error ? error.message : String(error));
    }
  }
  const after = await leftInRepository(repository, nowMs);
  return wanted.map((each) => {
    const still = after.find((other) => other.kind === each.kind && other.name === each.name);
    if (still === undefined) return { ...each, state: LeftoverState.LEFTOVER_STATE_REMOVED };
    const reason = failures.get(each.name) ?? still.reason;
    return { ...each, state: LeftoverState.LEFTOVER_STATE_FAILED, reason };
  });
}

function leftover(repository: string, { kind, path, changedMs }: UnfinishedEntry, nowMs: number): Leftover {
  const common = { host: '', repository, name: path, jobId: '', changeTime: new Date(changedMs) };
  if (kind === 'file') {
    // Whoever makes one gives up, or has the next one, within minutes.
    const isOld = nowMs - changedMs > DAY_MS;
    return {
      ...common,
      kind: LEFTOVER_KIND_TEMPORARY_FILE,
      backupId: '',
      state: isOld ? LEFTOVER_STATE_REMOVABLE : LEFTOVER_STATE_KEPT,
      reason: isOld
        ? 'It has the name of a temporary file of Holdfast and is older than a day.'
        : 'It may still be in use: it is younger than a day.',
    };
  }
  const backupId = partialBackupId(path);
  return {
    ...common,
    kind: LEFTOVER_KIND_PARTIAL_BACKUP,
    backupId: backupId ?? '',
    state: backupId === undefined ? LEFTOVER_STATE_KEPT : LEFTOVER_STATE_UNDECIDED,
    reason:
      backupId === undefined
        ? 'It is not named as Holdfast names backups, so nobody knows whose it is.'
        : 'A host may still be writing to it.',
  };
}

async function within<Result>(
  repository: Repository,
  patienceMs: number,
  work: Promise<Result>,
): Promise<Result> {
  const over = new AbortController();
  // It may still fail when nobody waits for it any more.
  work.catch(() => undefined);
  const late = async (): Promise<never> => {
    await sleep(patienceMs, undefined, { signal: over.signal });
    throw new HoldfastError(
      'REPOSITORY_STALLED',
      `Repository ${repository.name} did not answer within ${patienceMs / 1_000} s. Is the NAS up?`,
      { metadata: { repository: repository.name } },
    );
  };
  try {
    return await Promise.race([work, late()]);
  } finally {
    over.abort();
  }
}

import { HoldfastError } from '@holdfast/common/errors.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { Stage, type BackupResult, type Completed } from '@holdfast/proto/holdfast/v1/event.ts';
import { keyOf } from '../layouts/layout.ts';
import { domainNamed, domainState } from '../libvirt/domains.ts';
import { WHOLE } from '../digests/chunks.ts';
import { partialFolder } from '../repository/layout.ts';
import { stage, warning, type JobContext, type StageEnd, type StageRun } from '../stages/context.ts';
import { digest, digestsWanted, NO_DIGESTS, type BackupDigests, type DiskDigests } from '../stages/digest.ts';
import { finishImages } from '../stages/finish.ts';
import { prepare, type Prepared } from '../stages/prepare.ts';
import { prove, type ProvableImage } from '../stages/prove.ts';
import { publish } from '../stages/publish.ts';
import { quiesce } from '../stages/quiesce.ts';
import { imagesOf } from '../stages/readImages.ts';
import { readState } from '../stages/readState.ts';
import { openTransport } from '../transport/open.ts';
import type { Transport } from '../transport/transport.ts';
import type { JobEvent } from './eventLog.ts';

/** The stages of a backup, in order. */
export function backupStages(start: TakeBackupStart): readonly Stage[] {
  return [
    Stage.STAGE_PREPARE,
    Stage.STAGE_QUIESCE,
    ...passStages(start),
    ...(digestsWanted(start) === 'none' ? [] : [Stage.STAGE_DIGEST]),
    ...(start.options?.integrityCheck === true ? [Stage.STAGE_CHECK] : []),
    Stage.STAGE_PUBLISH,
  ];
}

/** The stages that run at the same time, as one pass over the data. */
function passStages(start: TakeBackupStart): readonly Stage[] {
  const encrypt = keyOf(start) === undefined ? [] : [Stage.STAGE_ENCRYPT];
  return [Stage.STAGE_BLOCKJOB, Stage.STAGE_CONVERT, ...encrypt];
}

/**
 * Takes a backup, from the first look at the domain to the published folder. One of a stopped domain that is started in
 * the middle is begun again, once, as one of a running domain.
 */
export async function* takeBackup(context: JobContext, start: TakeBackupStart): StageRun<Completed> {
  const mark = context.undo.mark();
  let value: BackupResult;
  try {
    value = yield* attempt(context, start);
  } catch (error) {
    if (!(error instanceof HoldfastError) || error.reason !== 'DOMAIN_STARTED') throw error;
    await undoAttempt(context, mark);
    await requireTakeable(context, start, error);
    yield warning(
      'DOMAIN_STARTED',
      'The domain was started while its images were read. What had been copied was thrown away, and the backup begins ' +
        'again with the domain as it is now.',
    );
    value = yield* attempt(context, start);
  }
  return { result: { $case: 'backup', value } };
}

const UNCHECKED = { integrityCheck: false, integrityLevel: '' };

/** One way through all stages. */
async function* attempt(context: JobContext, start: TakeBackupStart): StageRun<BackupResult> {
  await using open = new AsyncDisposableStack();
  const { prepared, transport } = yield* stage(context, Stage.STAGE_PREPARE, ready(context, start, open));
  const mode = start.options?.quiesce ?? 'off';
  const snapshot = yield* stage(context, Stage.STAGE_QUIESCE, quiesce(context, prepared, transport, mode));
  const state = prepared.backupLayout.keepsState ? yield* readState(context, prepared) : undefined;
  const copied = yield* transport.copy();
  const { storedBytes, digests } = yield* finish(context, start, prepared, transport);

  const { integrityCheck, integrityLevel } = start.options ?? UNCHECKED;
  const level = integrityLevel === '' ? 'metadata' : integrityLevel;
  if (integrityCheck) {
    const images = provable(prepared, storedBytes, level === 'stored' ? digests.stored : digests.content);
    await prepared.repository.dropCache(partialFolder(prepared.folder));
    if (level === 'source' && transport.snapshot === undefined) yield notAgainstSource();
    yield* stage(
      context,
      Stage.STAGE_CHECK,
      prove(context, prepared.repository, images, { level, sample: WHOLE, damage: 'CHECK_FAILED' }),
    );
  }
  const written = { ...copied, storedBytes, checkLevel: integrityCheck ? level : '', state, digests };
  return yield* stage(context, Stage.STAGE_PUBLISH, publish(context, start, prepared, snapshot, written));
}

/** Makes the images complete and lets the guest go; with the digests that are wanted. */
async function* finish(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  transport: Transport,
): StageRun<{ readonly storedBytes: ReadonlyMap<string, number>; readonly digests: BackupDigests }> {
  const wanted = digestsWanted(start);
  if (wanted !== 'none') {
    return yield* stage(context, Stage.STAGE_DIGEST, digest(context, prepared, transport, wanted));
  }
  const storedBytes = await finishImages(prepared, transport);
  return { storedBytes, digests: NO_DIGESTS };
}

/** The images with the digests that they must have. */
function provable(
  prepared: Prepared,
  storedBytes: ReadonlyMap<string, number>,
  digests: ReadonlyMap<string, DiskDigests> | undefined,
): readonly ProvableImage[] {
  return imagesOf(prepared, storedBytes).map((image, index) => ({
    ...image,
    file: `${partialFolder(prepared.folder)}/${prepared.disks[index]?.file ?? ''}`,
    digests: digests?.get(image.target),
  }));
}

function notAgainstSource(): JobEvent {
  return warning(
    'NOT_PROVED_AGAINST_SOURCE',
    'The backup was pushed, after which nothing holds the snapshot: the images were read back and compared with ' +
      'themselves, not with the source. A pulled backup can be (nas.backup.transport).',
  );
}

/** Everything that is done before the guest is touched. */
async function* ready(
  context: JobContext,
  start: TakeBackupStart,
  open: AsyncDisposableStack,
): AsyncGenerator<JobEvent, StageEnd<{ prepared: Prepared; transport: Transport }>, undefined> {
  const { result: prepared } = yield* prepare(context, start);
  open.defer(() => {
    prepared.repository.close();
  });
  const transport = open.use(await openTransport(context, start, prepared, passStages(start)));
  return { result: { prepared, transport } };
}

/** @throws the error of the first attempt when there cannot be a second one, such as of a domain that is paused. */
async function requireTakeable(
  context: JobContext,
  start: TakeBackupStart,
  error: HoldfastError,
): Promise<void> {
  const domain = await domainNamed(context.virsh, start.domain);
  if (domain === undefined && start.volumes.length > 0) return;
  if (domain === undefined) throw error;
  if (!['running', 'shut off'].includes(await domainState(context.virsh, domain.uuid))) throw error;
}

/** Undoes all that an attempt made, so that the next one finds what the first one found. */
async function undoAttempt(context: JobContext, mark: number): Promise<void> {
  const [failed] = await context.undo.all(mark);
  if (failed !== undefined) throw failed.error;
}

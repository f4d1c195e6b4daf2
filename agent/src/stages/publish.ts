import { version } from '@holdfast/common/version.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import type { Facts } from '../layouts/layout.ts';
import { layoutName } from '../qemu/layout.ts';
import { partialFolder } from '../repository/layout.ts';
import { MANIFEST_VERSION } from '../repository/manifestFile.ts';
import { withoutPassword } from '../repository/repository.ts';
import { toolVersions } from '../qemu/versions.ts';
import type { WriteFile } from '../repository/savedFile.ts';
import { stageName, type JobContext, type StageEnd } from './context.ts';
import type { BackupDigests } from './digest.ts';
import type { Prepared } from './prepare.ts';
import type { Snapshot } from './quiesce.ts';
import type { DomainState } from './readState.ts';
import { writeDigests, type DigestLists } from './writeDigests.ts';

/** What the manifest says beyond what prepare and the snapshot know. */
export interface Written {
  /** By target name. */
  readonly dataBytes: ReadonlyMap<string, number>;
  readonly storedBytes: ReadonlyMap<string, number>;
  readonly transferredBytes: ReadonlyMap<string, number>;
  /** To which level the images were checked; empty when they were not. */
  readonly checkLevel: string;
  /** Undefined when the layout keeps none. */
  readonly state: DomainState | undefined;
  readonly digests: BackupDigests;
}

const NO_LISTS: DigestLists = { storedDigests: undefined, contentDigests: undefined };

/** Writes what belongs beside the images, then makes the backup visible, whole, by one rename. */
export async function* publish(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  snapshot: Snapshot,
  written: Written,
): AsyncGenerator<JobEvent, StageEnd<BackupResult>, undefined> {
  const { repository, key, domainFiles } = prepared;
  const partial = partialFolder(prepared.folder);
  let filesBytes = 0;
  for (const bytes of written.storedBytes.values()) filesBytes += bytes;
  const write: WriteFile = async (name, content) => {
    await repository.writeFile(`${partial}/${name}`, content);
    filesBytes += content.length;
  };
  const lists = new Map<string, DigestLists>();
  for (const { disk } of prepared.disks) {
    lists.set(disk.target, await writeDigests(write, disk.target, written.digests, key !== undefined));
  }
  const companions = await prepared.backupLayout.writeCompanions(write, {
    domainFiles,
    state: written.state,
    key,
    manifest: {
      ...describe(context, start, prepared, snapshot, written, lists),
      toolVersions: { holdfast: version, ...(await toolVersions(context.virsh)) },
    },
  });
  await repository.syncFolder(partial);

  const result: BackupResult = { path: prepared.folder, ...companions, filesBytes: BigInt(filesBytes) };
  // Whoever finds this entry after a crash looks whether the rename happened, and only then decides.
  await context.journal.append({
    kind: 'publishing',
    repository: withoutPassword(prepared.repositoryRef),
    folder: prepared.folder,
    manifestSha256: companions.manifestSha256,
    result: BackupResult.toJSON(result),
  });
  context.control.signal.throwIfAborted();
  await repository.renameFolder(partial, prepared.folder);
  await prepared.partial.forget();
  yield* [];
  return { result };
}

function describe(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  snapshot: Snapshot,
  written: Written,
  lists: ReadonlyMap<string, DigestLists>,
): Omit<Facts['manifest'], 'toolVersions'> {
  const { layout } = prepared;
  const { figures, warnings } = context.summary();
  return {
    version: MANIFEST_VERSION,
    backupId: start.backupId,
    snapshotTime: snapshot.time,
    zone: context.header.zone,
    host: context.header.host === '' ? context.hostName : context.header.host,
    domainUuid: prepared.domain.uuid,
    domainName: prepared.domain.name,
    domainRunning: prepared.running,
    disks: prepared.disks.map(({ disk, volumeId, file, virtualSizeBytes }) => ({
      target: disk.target,
      source: disk.source,
      sourceFormat: disk.format,
      sourceEncrypted: disk.encryption !== undefined,
      virtualSizeBytes: BigInt(virtualSizeBytes),
      dataBytes: BigInt(written.dataBytes.get(disk.target) ?? 0),
      file,
      layout: layoutName(layout),
      storedBytes: BigInt(written.storedBytes.get(disk.target) ?? 0),
      compression: layout.compression,
      sourceSecretUuid: disk.encryption?.secretUuid ?? '',
      transferredBytes: BigInt(written.transferredBytes.get(disk.target) ?? 0),
      sourceType: disk.sourceType,
      volumeId,
      ...(lists.get(disk.target) ?? NO_LISTS),
    })),
    excludedDisks: prepared.excluded,
    consistency: snapshot.consistency,
    stages: [...figures].map(([stage, { elapsedMs, inputBytes, outputBytes }]) => ({
      stage: stageName(stage),
      elapsedMs,
      inputBytes,
      outputBytes,
    })),
    warnings,
    checked: written.checkLevel !== '',
    checkLevel: written.checkLevel,
    transport: prepared.transport.name,
    transportReason: prepared.transport.reason,
    idleIo: prepared.idleIo.effective,
    idleIoReason: prepared.idleIo.reason,
    operationId: context.header.jobId,
  };
}

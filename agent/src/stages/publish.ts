import { version } from '@holdfast/common/version.ts';
import type { TakeBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { layoutName } from '../qemu/layout.ts';
import {
  DOMAIN_XML_FILE,
  MAC_FILE,
  MANIFEST_FILE,
  partialFolder,
  WRAPPED_KEY_FILE,
} from '../repository/layout.ts';
import { encodeManifest, MANIFEST_VERSION, manifestMac, sha256 } from '../repository/manifestFile.ts';
import { withoutPassword } from '../repository/repository.ts';
import { toolVersions } from '../qemu/versions.ts';
import { writeSavedFile } from '../repository/savedFile.ts';
import { stageName, type JobContext, type StageEnd } from './context.ts';
import type { Prepared } from './prepare.ts';
import type { Snapshot } from './quiesce.ts';
import type { DomainState } from './readState.ts';
import { writeState, type SavedState } from './writeState.ts';

/** What the manifest says beyond what prepare and the snapshot know. */
export interface Written {
  /** By target name. */
  readonly dataBytes: ReadonlyMap<string, number>;
  readonly storedBytes: ReadonlyMap<string, number>;
  readonly transferredBytes: ReadonlyMap<string, number>;
  readonly checked: boolean;
  readonly state: DomainState;
}

/** Writes what belongs beside the images, then makes the backup visible, whole, by one rename. */
export async function* publish(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  snapshot: Snapshot,
  written: Written,
): AsyncGenerator<JobEvent, StageEnd<BackupResult>, undefined> {
  const { repository, key } = prepared;
  const partial = partialFolder(prepared.folder);
  const xml = Buffer.from(prepared.persistentXml);
  const savedXml = await writeSavedFile(repository, partial, DOMAIN_XML_FILE, xml, key);
  const manifest: Manifest = {
    ...describe(context, start, prepared, snapshot, written),
    domainXmlFile: savedXml.file,
    domainXmlSha256: savedXml.sha256,
    ...(await writeState(repository, partial, written.state, key)),
    toolVersions: { holdfast: version, ...(await toolVersions(context.virsh)) },
  };
  const bytes = encodeManifest(manifest);
  if (key !== undefined && start.key !== undefined) {
    await repository.writeFile(`${partial}/${WRAPPED_KEY_FILE}`, start.key.wrappedKey);
    await repository.writeFile(`${partial}/${MAC_FILE}`, Buffer.from(`${manifestMac(bytes, key)}\n`));
  }
  await repository.writeFile(`${partial}/${MANIFEST_FILE}`, bytes);
  await repository.syncFolder(partial);

  const manifestSha256 = sha256(bytes);
  // Whoever finds this entry after a crash looks whether the rename happened, and only then decides.
  await context.journal.append({
    kind: 'publishing',
    repository: withoutPassword(prepared.repositoryRef),
    folder: prepared.folder,
    manifestSha256,
  });
  context.control.signal.throwIfAborted();
  await repository.renameFolder(partial, prepared.folder);
  await prepared.partial.forget();
  yield* [];
  return { result: { path: prepared.folder, manifest, manifestSha256 } };
}

function describe(
  context: JobContext,
  start: TakeBackupStart,
  prepared: Prepared,
  snapshot: Snapshot,
  written: Written,
): Omit<Manifest, 'domainXmlFile' | 'domainXmlSha256' | 'toolVersions' | keyof SavedState> {
  const { layout } = prepared;
  const { figures, warnings } = context.summary();
  return {
    version: MANIFEST_VERSION,
    backupId: start.backupId,
    snapshotTime: snapshot.time,
    zone: context.header.zone,
    host: context.hostName,
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
    })),
    excludedDisks: prepared.excluded,
    consistency: snapshot.consistency,
    encryption:
      start.key === undefined
        ? undefined
        : { keyId: start.key.keyId, wrappedKeyFile: WRAPPED_KEY_FILE, macFile: MAC_FILE },
    stages: [...figures].map(([stage, { elapsedMs, inputBytes, outputBytes }]) => ({
      stage: stageName(stage),
      elapsedMs,
      inputBytes,
      outputBytes,
    })),
    warnings,
    checked: written.checked,
    transport: prepared.transport.name,
    transportReason: prepared.transport.reason,
    idleIo: prepared.idleIo.effective,
    idleIoReason: prepared.idleIo.reason,
  };
}

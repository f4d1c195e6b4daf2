import { join } from 'node:path';
import type { BlockDevice, NetworkInterface } from '@holdfast/proto/holdfast/v1/manifest.ts';
import type { JobEvent } from '../jobs/eventLog.ts';
import { readBlockDevices, readInterfaces } from '../libvirt/devices.ts';
import { readMetadata, type Metadata } from '../libvirt/metadata.ts';
import { libvirtStateDirectory } from '../libvirt/nativeArguments.ts';
import { findNvram } from '../libvirt/nvram.ts';
import {
  readTpm,
  swtpmDirectory,
  tpmDirectory,
  tpmStateFile,
  type DomainTpm,
  type TpmVersion,
} from '../libvirt/tpm.ts';
import { warning, type JobContext } from './context.ts';
import type { Prepared } from './prepare.ts';
import { readSettled, type Reading } from './readSettled.ts';

/** What makes a domain beside its disks and its XML. */
export interface DomainState {
  /** Its UEFI variables; undefined when it has none. */
  readonly nvram: { readonly content: Uint8Array; readonly format: string } | undefined;
  /** Its TPM; undefined when it has none. */
  readonly tpm: DomainTpm | undefined;
  /** The emulated TPM's persistent state. */
  readonly tpmState: { readonly content: Uint8Array; readonly version: TpmVersion } | undefined;
  readonly interfaces: readonly NetworkInterface[];
  readonly blockDevices: readonly BlockDevice[];
  readonly metadata: Metadata;
}

/**
 * Reads what makes a domain beside its disks: right after the snapshot, since a running guest goes on changing it. A
 * part that cannot be read is a warning, because the disks are worth keeping without it.
 */
export async function* readState(
  context: JobContext,
  prepared: Prepared,
): AsyncGenerator<JobEvent, DomainState, undefined> {
  const { virsh } = context;
  const { uuid } = prepared.domain;
  const [domainXml, metadata] = await Promise.all([
    virsh.command(['dumpxml', uuid]),
    readMetadata(virsh, uuid),
  ]);
  const nvram = yield* readNvram(context, prepared, domainXml);
  const tpm = readTpm(domainXml);
  const tpmState = tpm === undefined ? undefined : yield* readTpmState(context, prepared, tpm);
  return {
    nvram,
    tpm,
    tpmState,
    interfaces: readInterfaces(domainXml),
    blockDevices: readBlockDevices(domainXml),
    metadata,
  };
}

async function* readNvram(
  context: JobContext,
  prepared: Prepared,
  domainXml: string,
): AsyncGenerator<JobEvent, DomainState['nvram'], undefined> {
  const source = await findNvram(context.virsh, prepared.domain.uuid, domainXml);
  if (source === undefined) return undefined;
  const reading: Reading =
    source.path === undefined
      ? { kind: 'unreadable', message: 'it is not a local file' }
      : await readSettled(source.path, context.control.signal);
  switch (reading.kind) {
    case 'content':
      if (!reading.settled) {
        yield warning(
          'NVRAM_CHANGING',
          `The UEFI variables (${source.path ?? ''}) changed all the time while they were read; the copy may be torn.`,
        );
      }
      return { content: reading.content, format: source.format };
    case 'missing':
      // libvirt makes the file at the first start.
      if (!prepared.running) return undefined;
      yield notSaved(
        'NVRAM_NOT_SAVED',
        `The file of UEFI variables is not in the backup: ${source.path ?? ''} is not there.`,
      );
      return undefined;
    case 'unreadable':
      yield notSaved(
        'NVRAM_NOT_SAVED',
        `The file of UEFI variables is not in the backup: ${reading.message}.`,
      );
      return undefined;
  }
}

async function* readTpmState(
  context: JobContext,
  prepared: Prepared,
  tpm: DomainTpm,
): AsyncGenerator<JobEvent, DomainState['tpmState'], undefined> {
  const without = (why: string): JobEvent =>
    notSaved('TPM_STATE_NOT_SAVED', `The TPM's state is not in the backup: ${why}.`);
  if (tpm.backend !== 'emulator') {
    yield without(`the domain uses a TPM of the host (${tpm.backend})`);
    return undefined;
  }
  if (tpm.version === undefined) {
    yield without('its version is not known to Holdfast');
    return undefined;
  }
  const directory = await stateDirectory(context, prepared, tpm, tpm.version);
  if (directory === undefined) {
    yield without('libvirt does not tell where it is');
    return undefined;
  }
  const path = join(directory, tpmStateFile(tpm.version));
  const reading = await readSettled(path, context.control.signal);
  switch (reading.kind) {
    case 'content':
      // swtpm replaces its file in one step, so that a copy is whole; but it is not of the disks' instant.
      if (prepared.running) {
        yield warning(
          'TPM_STATE_LIVE',
          "The TPM's state was copied while the domain ran, just after the snapshot of its disks. What the guest sealed " +
            'in that moment may not fit them; a backup of the stopped domain always fits.',
        );
      }
      return { content: reading.content, version: tpm.version };
    case 'missing':
      // libvirt makes the state at the first start.
      if (!prepared.running) return undefined;
      yield without(`${path} is not there`);
      return undefined;
    case 'unreadable':
      yield without(reading.message);
      return undefined;
  }
}

async function stateDirectory(
  context: JobContext,
  prepared: Prepared,
  tpm: DomainTpm,
  version: TpmVersion,
): Promise<string | undefined> {
  if (tpm.sourceDirectory !== undefined) return tpm.sourceDirectory;
  const libvirtState = await libvirtStateDirectory(context.virsh, context.runtimeDirectory);
  return libvirtState === undefined
    ? undefined
    : join(tpmDirectory(libvirtState, prepared.domain.uuid), swtpmDirectory(version));
}

function notSaved(reason: 'NVRAM_NOT_SAVED' | 'TPM_STATE_NOT_SAVED', what: string): JobEvent {
  return warning(reason, `${what} A restored domain starts with a new one.`);
}

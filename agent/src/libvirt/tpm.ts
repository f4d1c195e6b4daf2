import { join } from 'node:path';
import type { Element } from '@xmldom/xmldom';
import { child, children, descendant, parseXml } from './xml.ts';

/** Where swtpm keeps the persistent state of each version of TPM in the directory that it is given (swtpm(8)). */
const STATE_FILES = {
  '2.0': { directory: 'tpm2', file: 'tpm2-00.permall' },
  '1.2': { directory: 'tpm1.2', file: 'tpm-00.permall' },
} as const;

export type TpmVersion = keyof typeof STATE_FILES;

/** A domain's TPM as its XML describes it. */
export interface DomainTpm {
  /** emulator, passthrough or external. */
  readonly backend: string;
  readonly model: string;
  /** 2.0 or 1.2; undefined for a version that is not known here. */
  readonly version: TpmVersion | undefined;
  /** The directory of the state, when the XML names one, which newer versions of libvirt allow. */
  readonly sourceDirectory: string | undefined;
  /** The secret under which the state is encrypted; empty when it is not. */
  readonly secretUuid: string;
}

/** The TPM of a domain (libvirt.org/formatdomain.html#tpm-device); undefined when it has none. */
export function readTpm(domainXml: string): DomainTpm | undefined {
  const tpm = descendant(parseXml(domainXml), ['devices', 'tpm']);
  if (tpm === undefined) return undefined;
  const backend = child(tpm, 'backend');
  const version = backend?.getAttribute('version') ?? '2.0';
  const source = backend === undefined ? undefined : child(backend, 'source');
  return {
    backend: backend?.getAttribute('type') ?? '',
    model: tpm.getAttribute('model') ?? '',
    version: isTpmVersion(version) ? version : undefined,
    sourceDirectory:
      source?.getAttribute('type') === 'dir' ? (source.getAttribute('path') ?? undefined) : undefined,
    secretUuid:
      (backend === undefined ? undefined : child(backend, 'encryption'))?.getAttribute('secret') ?? '',
  };
}

export function isTpmVersion(text: string): text is TpmVersion {
  return Object.hasOwn(STATE_FILES, text);
}

/** The name of the file with the persistent state. */
export function tpmStateFile(version: TpmVersion): string {
  return STATE_FILES[version].file;
}

/** The directory that libvirt makes for a domain's TPM. */
export function tpmDirectory(libvirtState: string, domainUuid: string): string {
  return join(libvirtState, 'swtpm', domainUuid);
}

/** The directory in it that swtpm is given. */
export function swtpmDirectory(version: TpmVersion): string {
  return STATE_FILES[version].directory;
}

/** Leaves it to libvirt where the states of a domain's emulated TPMs are: under the domain's own UUID. */
export function forgetTpmSource(root: Element): void {
  const devices = child(root, 'devices');
  for (const tpm of devices === undefined ? [] : children(devices, 'tpm')) {
    const backend = child(tpm, 'backend');
    if (backend?.getAttribute('type') !== 'emulator') continue;
    for (const source of children(backend, 'source')) backend.removeChild(source);
  }
}

import type { Secret } from '@holdfast/common/secret.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { tpmStateFile } from '../libvirt/tpm.ts';
import { LIBVIRT_METADATA_FILE, NVRAM_FILE } from '../repository/layout.ts';
import { writeSavedFile, type WriteFile } from '../repository/savedFile.ts';
import type { DomainState } from './readState.ts';

/** What a manifest says of a domain's state. */
export type SavedState = Pick<Manifest, 'nvram' | 'tpm' | 'interfaces' | 'blockDevices' | 'libvirtMetadata'>;

/** Writes a domain's state beside its images. */
export async function writeState(
  writeFile: WriteFile,
  state: DomainState,
  key: Secret | undefined,
): Promise<SavedState> {
  const { nvram, tpm, tpmState, metadata } = state;
  const write = (name: string, content: Uint8Array): ReturnType<typeof writeSavedFile> =>
    writeSavedFile(writeFile, name, content, key);
  return {
    nvram: nvram && { file: await write(NVRAM_FILE, nvram.content), format: nvram.format },
    tpm: tpm && {
      version: tpm.version ?? '',
      model: tpm.model,
      state: tpmState && (await write(tpmStateFile(tpmState.version), tpmState.content)),
      secretUuid: tpm.secretUuid,
    },
    interfaces: state.interfaces,
    blockDevices: state.blockDevices,
    libvirtMetadata:
      metadata.xml === ''
        ? undefined
        : {
            snapshots: metadata.snapshots,
            checkpoints: metadata.checkpoints,
            file: await write(LIBVIRT_METADATA_FILE, Buffer.from(metadata.xml)),
          },
  };
}

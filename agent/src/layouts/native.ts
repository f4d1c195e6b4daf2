import { manifestMac, sha256 } from '@holdfast/common/manifestDigest.ts';
import type { BackupKey } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { imageFileName } from '../qemu/layout.ts';
import { backupFolder, DOMAIN_XML_FILE, keyFile, MAC_FILE, MANIFEST_FILE } from '../repository/layout.ts';
import { storeZoneKey } from '../repository/keyFileCalls.ts';
import { encodeManifest } from '../repository/manifestFile.ts';
import { writeSavedFile } from '../repository/savedFile.ts';
import { writeState } from '../stages/writeState.ts';
import type { BackupLayout } from './layout.ts';

/** Holdfast's own layout (docs/repository-format.md). */
export function nativeLayout(backupId: string, backupKey: BackupKey | undefined): BackupLayout {
  return {
    keepsState: true,
    folder: (domain, at) => backupFolder(domain.uuid, at, backupId),
    imageNames: (disks, image) => Promise.resolve(disks.map((disk) => imageFileName(disk.target, image))),
    ready: async (repository) => {
      if (backupKey !== undefined) await storeZoneKey(repository, backupKey.keyId, backupKey.zoneKeyFile);
    },
    domainFiles: (_virsh, { persistentXml }) =>
      Promise.resolve([{ name: DOMAIN_XML_FILE, content: Buffer.from(persistentXml) }]),
    writeCompanions: async (write, { domainFiles, state, manifest, key }) => {
      const [domainXml] = domainFiles;
      if (domainXml === undefined || state === undefined) throw new Error('the domain was not described');
      const savedXml = await writeSavedFile(write, domainXml.name, domainXml.content, key);
      const whole: Manifest = {
        ...manifest,
        encryption:
          backupKey === undefined
            ? undefined
            : { keyId: backupKey.keyId, wrappedKeyFile: '', macFile: MAC_FILE },
        domainXmlFile: savedXml.file,
        domainXmlSha256: savedXml.sha256,
        ...(await writeState(write, state, key)),
      };
      const bytes = encodeManifest(whole);
      if (key !== undefined && backupKey !== undefined) {
        await write(keyFile(backupKey.keyId), backupKey.wrappedKey);
        await write(MAC_FILE, Buffer.from(`${manifestMac(bytes, key)}\n`));
      }
      await write(MANIFEST_FILE, bytes);
      return { manifest: whole, manifestSha256: sha256(bytes) };
    },
  };
}

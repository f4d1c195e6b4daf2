import type {
  BackupResult,
  Completed,
  KeysResult,
  RestoreResult,
  VerificationResult,
} from '@holdfast/proto/holdfast/v1/event.ts';
import { formatBytes } from '../format/bytes.ts';
import { safe } from '../format/text.ts';

/** What an operation came to, in lines for people. */
export function resultLines({ result }: Completed): string[] {
  switch (result?.$case) {
    case undefined:
      return ['Done.'];
    case 'backup':
      return backupLines(result.value);
    case 'verification':
      return verificationLines(result.value);
    case 'restore':
      return restoreLines(result.value);
    case 'deletion':
      return [`Deleted; ${formatBytes(result.value.freedBytes)} freed.`];
    case 'keys':
      return keysLines(result.value);
  }
}

function backupLines({ manifest, path }: BackupResult): string[] {
  if (manifest === undefined) return [`Backed up to ${safe(path)}.`];
  const data = manifest.disks.reduce((sum, disk) => sum + disk.dataBytes, 0n);
  const stored = manifest.disks.reduce((sum, disk) => sum + disk.storedBytes, 0n);
  const compressed = manifest.disks.some((disk) => disk.compression !== '');
  const traits = [
    compressed ? `compressed (ratio ${(Number(data) / Number(stored || 1n)).toFixed(2)})` : 'not compressed',
    manifest.encryption === undefined ? 'not encrypted' : 'encrypted',
    manifest.checked ? 'checked' : 'not checked',
    manifest.consistency?.quiesced === true ? 'quiesced' : 'not quiesced',
  ];
  return [
    `Backup ${safe(manifest.backupId)} of ${safe(manifest.domainName)}: ${formatBytes(data)} of data on ` +
      `${count(manifest.disks.length, 'disk')}, ${formatBytes(stored)} stored; ${traits.join(', ')}.`,
    ...manifest.excludedDisks.map((disk) => `Left out: ${safe(disk.target)}: ${safe(disk.message)}`),
  ];
}

function verificationLines({ level, disks }: VerificationResult): string[] {
  const leaks = disks.filter((disk) => disk.leakedClusters > 0n);
  return [
    `Intact: ${count(disks.length, 'disk')}, level ${safe(level)}.`,
    ...leaks.map(
      (disk) =>
        `${safe(disk.target)}: ${disk.leakedClusters.toString()} leaked clusters: wasted space, intact data.`,
    ),
  ];
}

function keysLines({ backupCount, retiredKeyIds }: KeysResult): string[] {
  return [
    `The key files are as they should be; ${count(Number(backupCount), 'backup')} wrapped anew.`,
    ...retiredKeyIds.map((id) => `Key ${safe(id)} is retired: nothing is left that it would open.`),
  ];
}

function restoreLines({ disks, domainXmlPath, nvramPath, tpmStatePath }: RestoreResult): string[] {
  return [
    'Restored:',
    ...disks.map(
      (disk) =>
        `  ${safe(disk.target)}  ${safe(disk.path)}  ${safe(disk.format)}, ${formatBytes(disk.virtualSizeBytes)}`,
    ),
    ...(nvramPath === '' ? [] : [`UEFI variables: ${safe(nvramPath)}`]),
    ...(tpmStatePath === '' ? [] : [`TPM state: ${safe(tpmStatePath)}`]),
    ...(domainXmlPath === '' ? [] : [`Domain XML: ${safe(domainXmlPath)} (virsh define)`]),
  ];
}

function count(number: number, noun: string): string {
  return `${number} ${noun}${number === 1 ? '' : 's'}`;
}

import type { Backup, Damage, LastVerification, Proof } from '@holdfast/proto/holdfast/v1/backup.ts';
import type {
  Consistency,
  ExcludedDisk,
  Manifest,
  ManifestDisk,
  ManifestStage,
} from '@holdfast/proto/holdfast/v1/manifest.ts';
import { formatBytes } from '../format/bytes.ts';
import { formatDuration, formatTime } from '../format/duration.ts';
import { pairs, table } from '../format/table.ts';
import { safe } from '../format/text.ts';

/** A backup on a page for people. */
export function backupPage(backup: Backup): string[] {
  const { manifest } = backup;
  return [
    ...pairs([
      ['Backup', backup.id],
      ['Domain', `${backup.domainName} (${backup.domainUuid})`],
      ['Zone', backup.zone],
      ['Host', backup.host],
      ['Repository', backup.repository],
      ['Path', backup.path],
      ['Taken', formatTime(backup.snapshotTime)],
      ['Data', formatBytes(backup.dataBytes)],
      ['Transferred', formatBytes(backup.transferredBytes)],
      ['Stored', `${formatBytes(backup.storedBytes)}${ratioOf(backup)}`],
      ['Compressed', yesNo(backup.compressed)],
      ['Encrypted', encryption(backup)],
      ['State', state(backup.damage)],
      ['Proved', proof(backup.lastProof)],
      ['Verified', verification(backup.lastVerification)],
      ...(manifest === undefined ? [] : manifestPairs(manifest)),
    ]),
    ...(manifest === undefined ? [] : manifestTables(manifest)),
    ...(backup.warnings.length > 0
      ? section(
          'Unusual',
          backup.warnings.map(({ reason, message }) => `${reason}: ${safe(message)}`),
        )
      : []),
  ];
}

function manifestPairs(manifest: Manifest): (readonly [string, string])[] {
  return [
    ['Running', yesNo(manifest.domainRunning)],
    ['Quiesced', consistency(manifest.consistency)],
    ['Checked', yesNo(manifest.checked)],
    ['Saved beside', savedBeside(manifest)],
    [
      'Made by',
      Object.entries(manifest.toolVersions)
        .map(([tool, version]) => `${tool} ${version}`)
        .join(', '),
    ],
  ];
}

function manifestTables(manifest: Manifest): string[] {
  return [
    ...section('Disks', diskTable(manifest.disks)),
    ...(manifest.excludedDisks.length > 0 ? section('Left out', excludedTable(manifest.excludedDisks)) : []),
    ...section('Stages', stageTable(manifest.stages)),
    ...(manifest.warnings.length > 0 ? section('Warnings', manifest.warnings.map(safe)) : []),
  ];
}

function section(title: string, lines: readonly string[]): string[] {
  return ['', `${title}:`, ...lines.map((line) => `  ${line}`)];
}

function diskTable(disks: readonly ManifestDisk[]): string[] {
  return table(
    [
      { title: 'DISK' },
      { title: 'SIZE', align: 'right' },
      { title: 'DATA', align: 'right' },
      { title: 'TRANSFERRED', align: 'right' },
      { title: 'STORED', align: 'right' },
      { title: 'LAYOUT' },
      { title: 'COMPRESSION' },
      { title: 'FILE' },
      { title: 'SOURCE' },
    ],
    disks.map((disk) => [
      disk.target,
      formatBytes(disk.virtualSizeBytes),
      formatBytes(disk.dataBytes),
      formatBytes(disk.transferredBytes),
      formatBytes(disk.storedBytes),
      disk.layout,
      disk.compression || 'none',
      disk.file,
      `${disk.source} (${disk.sourceFormat}${disk.sourceEncrypted ? ', encrypted' : ''})`,
    ]),
  );
}

function excludedTable(disks: readonly ExcludedDisk[]): string[] {
  return table(
    [{ title: 'DISK' }, { title: 'DEVICE' }, { title: 'REASON' }, { title: 'WHY' }],
    disks.map((disk) => [disk.target, disk.device, disk.reason, disk.message]),
  );
}

function stageTable(stages: readonly ManifestStage[]): string[] {
  return table(
    [
      { title: 'STAGE' },
      { title: 'TIME', align: 'right' },
      { title: 'IN', align: 'right' },
      { title: 'OUT', align: 'right' },
    ],
    stages.map((stage) => [
      stage.stage,
      formatDuration(stage.elapsedMs),
      stage.inputBytes > 0n ? formatBytes(stage.inputBytes) : '-',
      stage.outputBytes > 0n ? formatBytes(stage.outputBytes) : '-',
    ]),
  );
}

/** What is in the backup besides disks and domain XML. */
function savedBeside({ nvram, tpm, libvirtMetadata }: Manifest): string {
  const all = [
    nvram === undefined ? '' : 'UEFI variables',
    tpm?.state === undefined ? '' : `TPM ${tpm.version} state`,
    libvirtMetadata === undefined ? '' : 'snapshots and checkpoints as libvirt knows them',
  ];
  return all.filter((each) => each !== '').join(', ') || 'nothing';
}

function ratioOf({ dataBytes, storedBytes }: Backup): string {
  return dataBytes > 0n && storedBytes > 0n
    ? ` (ratio ${(Number(dataBytes) / Number(storedBytes)).toFixed(2)})`
    : '';
}

function encryption({ encrypted, manifest }: Backup): string {
  const keyId = manifest?.encryption?.keyId;
  return encrypted && keyId !== undefined ? `yes, key ${keyId}` : yesNo(encrypted);
}

function state(damage: Damage | undefined): string {
  if (damage === undefined) return 'ok';
  const { time, level, operationId, message } = damage;
  const by = operationId === '' ? '' : ` by operation ${operationId}`;
  return `DAMAGED, found ${formatTime(time)} at level ${level}${by}: ${safe(message)}`;
}

function proof(last: Proof | undefined): string {
  if (last === undefined) return 'never';
  const { time, level, operationId, samplePercent } = last;
  const part = samplePercent < 100 ? `, ${samplePercent} % of it` : '';
  const by = operationId === '' ? '' : `, by operation ${operationId}`;
  return `${formatTime(time)}, level ${level}${part}${by}`;
}

function verification(last: LastVerification | undefined): string {
  if (last === undefined) return 'never';
  const words = last.intact ? 'intact' : `DAMAGED: ${last.message}`;
  return `${formatTime(last.time)}, level ${last.level}, ${words}`;
}

function consistency(value: Consistency | undefined): string {
  if (value === undefined) return 'unknown';
  const frozen = value.frozenMs > 0n ? `, frozen for ${formatDuration(value.frozenMs)}` : '';
  const why = value.message === '' ? '' : `: ${value.message}`;
  return `${yesNo(value.quiesced)} (asked: ${value.requested || 'off'}${frozen})${why}`;
}

function yesNo(value: boolean): string {
  return value ? 'yes' : 'no';
}

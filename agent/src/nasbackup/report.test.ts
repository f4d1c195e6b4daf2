import assert from 'node:assert/strict';
import { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { readArguments, type BackupRequest } from './arguments.ts';
import { backupReport, statsReport } from './report.ts';

const RESULT = BackupResult.fromPartial({
  filesBytes: 12_345n,
  manifest: {
    disks: [
      { file: 'root.b.qcow2', storedBytes: 7_000n, virtualSizeBytes: 1_048_576n },
      { file: 'datadisk.a.qcow2', storedBytes: 5_000n, virtualSizeBytes: 1_048_576n },
    ],
    stages: [{ stage: 'blockjob', elapsedMs: 1_500n }],
  },
});

function request(...flags: readonly string[]): BackupRequest {
  const args = ['-o', 'backup', '-v', 'vm', '-t', 'nfs', '-s', 'nas:/', '-p', 'x', ...flags];
  const read = readArguments(args);
  assert.ok(read.operation === 'backup');
  return read;
}

describe('backupReport', () => {
  it('ends with the size, for CloudStack takes the last line', () => {
    const lines = backupReport(request(), RESULT).split('\n');
    assert.match(lines[0] ?? '', /^Job type: +Completed$/);
    assert.ok(lines.includes('File total:       2.000 MiB'));
    assert.equal(lines.at(-1), '12345');
  });

  it('is one size a line with volumes given, for CloudStack adds up all lines', () => {
    assert.equal(backupReport(request('-d', '/b,/a'), RESULT), '5000\n7000');
  });

  it('says first that an incremental backup is a full one', () => {
    const flags = ['-M', 'incremental', '--bitmap-new', 'n', '--bitmap-parent', 'p', '--parent-paths', 'f'];
    assert.match(backupReport(request(...flags), RESULT), /^INCREMENTAL_FALLBACK=true\nJob type/);
  });
});

describe('statsReport', () => {
  it('has size and use in KiB as its second word and its third', () => {
    const text = statsReport({ path: '/mnt/my nas/', sizeBytes: 4_096n, usedBytes: 1_024n });
    assert.deepEqual(text.split(/\s+/), ['/mnt/my_nas', '4', '1']);
  });
});

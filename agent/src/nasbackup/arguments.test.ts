import assert from 'node:assert/strict';
import { readArguments, UsageError } from './arguments.ts';

const STORAGE = ['-t', 'nfs', '-s', 'nas:/export', '-m', ''];
const BACKUP = ['-o', 'backup', '-v', 'i-2-10-VM', ...STORAGE, '-p', 'i-2-10-VM/2026.01.31'];
const storage = { type: 'nfs', address: 'nas:/export', mountOptions: '' };

describe('readArguments', () => {
  it('reads what CloudStack gives for a backup of a running VM', () => {
    assert.deepEqual(readArguments([...BACKUP, '-q', 'false', '-d', '']), {
      operation: 'backup',
      domain: 'i-2-10-VM',
      storage,
      folder: 'i-2-10-VM/2026.01.31',
      volumes: [],
      quiesce: false,
      compress: false,
      bandwidthMibps: 0,
      passphraseFile: '',
      verify: false,
      incremental: false,
    });
  });

  it('reads every flag, by its short name and by its long one', () => {
    const short = [...BACKUP, '-q', 'true', '-d', '/a,/b', '-c', '-b', '50', '-e', '/key', '--verify'];
    const long = [
      ...['--operation', 'backup', '--vm', 'i-2-10-VM', '--type', 'nfs', '--storage', 'nas:/export'],
      ...['--mount', '', '--path', 'i-2-10-VM/2026.01.31', '--quiesce', 'true', '--diskpaths', '/a,/b'],
      ...['--compress', '--bandwidth', '50', '--encrypt', '/key', '--verify'],
    ];
    const expected = readArguments(short);
    assert.deepEqual(readArguments(long), expected);
    assert.equal(expected.operation, 'backup');
    assert.deepEqual(
      [expected.quiesce, expected.volumes, expected.compress, expected.bandwidthMibps],
      [true, ['/a', '/b'], true, 50],
    );
    assert.deepEqual([expected.passphraseFile, expected.verify], ['/key', true]);
  });

  it('reads deletions and questions for space', () => {
    assert.deepEqual(readArguments(['-o', 'delete', ...STORAGE, '-p', '/i-2-10-VM//1/']), {
      operation: 'delete',
      storage,
      folder: 'i-2-10-VM/1',
    });
    assert.deepEqual(readArguments(['-o', 'stats', ...STORAGE]), { operation: 'stats', storage });
  });

  it('takes an incremental backup’s flags together, and a full one’s', () => {
    const chain = ['--bitmap-new', 'b2', '--bitmap-parent', 'b1', '--parent-paths', 'x/root.1.qcow2'];
    const incremental = readArguments([...BACKUP, '-M', 'incremental', ...chain]);
    assert.ok(incremental.operation === 'backup' && incremental.incremental);
    for (const mode of [
      ['-M', 'full', '--bitmap-new', 'b1'],
      ['-M', 'legacy-full'],
    ]) {
      const full = readArguments([...BACKUP, ...mode]);
      assert.ok(full.operation === 'backup' && !full.incremental);
    }
  });

  for (const [given, volumes] of [
    ['/a,/b', ['/a', '/b']],
    ['/a,b,/c d,e"\'', ['/a,b', '/c d,e"\'']],
    ['/a/../b', ['/a/../b']],
    ['rbd:p/v:mon_host=a\\:6789,rbd:p/w,/dev/vg/lv', ['rbd:p/v:mon_host=a\\:6789', 'rbd:p/w', '/dev/vg/lv']],
  ] as const) {
    it(`splits volumes at the commas between paths: ${given}`, () => {
      const request = readArguments([...BACKUP, '-d', given]);
      assert.ok(request.operation === 'backup');
      assert.deepEqual(request.volumes, volumes);
    });
  }

  const chain = ['--bitmap-new', 'b2', '--bitmap-parent', 'b1', '--parent-paths', 'p'];
  for (const [args, message] of [
    [[], /operation is missing/],
    [['-o', 'restore', ...STORAGE], /no operation "restore"/],
    [['-o'], /argument missing/],
    [['-o', '-v', 'x'], /argument/],
    [[...BACKUP, '--frobnicate'], /Unknown option '--frobnicate'/],
    [[...BACKUP, 'stray'], /Unexpected argument/],
    [[...BACKUP, '-c', '--compress'], /--compress is given twice/],
    [[...BACKUP, '-p', 'other'], /-p is given twice/],
    [['-o', 'backup', ...STORAGE, '-p', 'x'], /VM is missing/],
    [['-o', 'backup', '-v', '', ...STORAGE, '-p', 'x'], /VM is missing/],
    [['-o', 'backup', '-v', 'x', ...STORAGE], /path .* is missing/],
    [['-o', 'delete', ...STORAGE, '-p', '/./'], /path .* is missing/],
    [['-o', 'delete', ...STORAGE, '-p', 'a/../../b'], /has \.\. in it/],
    [['-o', 'stats', '-s', 'nas:/export'], /type of the storage is missing/],
    [['-o', 'stats', '-t', 'ftp', '-s', 'x'], /type "ftp"/],
    [['-o', 'stats', '-t', 'nfs'], /address of the storage is missing/],
    [['-o', 'stats', ...STORAGE, '-c'], /--compress does not go with -o stats/],
    [['-o', 'delete', ...STORAGE, '-p', 'x', '-d', '/a'], /--diskpaths does not go with -o delete/],
    [[...BACKUP, '-q', 'yes'], /-q is true or false/],
    [[...BACKUP, '-d', 'a,/b'], /-d needs absolute paths/],
    [[...BACKUP, '-b', '50M'], /-b is a whole number/],
    [[...BACKUP, '-b', '1.5'], /-b is a whole number/],
    [[...BACKUP, '-b', '99999999999999'], /-b is a whole number/],
    [[...BACKUP, '-e', ''], /-e needs the file/],
    [[...BACKUP, '-M', 'differential'], /no mode "differential"/],
    [[...BACKUP, '-M', 'full'], /needs --bitmap-new/],
    [[...BACKUP, '-M', 'full', ...chain], /--bitmap-parent goes with -M incremental only/],
    [[...BACKUP, '--bitmap-new', 'b'], /--bitmap-new goes with/],
    [[...BACKUP, '--parent-paths', 'p'], /--parent-paths goes with/],
    [[...BACKUP, '-M', 'incremental', '--bitmap-new', 'b'], /needs --bitmap-parent/],
    [[...BACKUP, '-M', 'incremental', ...chain, '-c'], /cannot be combined/],
    [[...BACKUP, '-M', 'incremental', ...chain, '-e', '/key'], /cannot be combined/],
  ] as const) {
    it(`refuses ${JSON.stringify(args.slice(-4))}`, () => {
      assert.throws(
        () => readArguments(args),
        (error) => error instanceof UsageError && message.test(error.message),
      );
    });
  }
});

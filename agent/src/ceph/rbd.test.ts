import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { temporaryDirectory } from '../testing/directory.ts';
import { scriptedRbd, type RbdAnswer, type ScriptedRbd } from '../testing/rbd.ts';
import { scriptedVirsh } from '../testing/virsh.ts';
import { rbdWith, type Rbd } from './rbd.ts';
import type { RbdImage } from './rbdImage.ts';

const KEY = 'AQBQ4QVrTEtuCRAAUDZXK5c0Sm8B5e7fiNGqiw==';
const IMAGE: RbdImage = {
  cluster: { monitors: ['m:3300'], user: 'vm', secret: { uuid: 'u' }, confPath: '' },
  ...{ pool: 'p', namespace: '', name: 'i' },
};

describe('the images of a Ceph cluster', () => {
  let directory: Awaited<ReturnType<typeof temporaryDirectory>>;
  let program: ScriptedRbd;
  let rbd: Rbd;
  beforeEach(async () => {
    directory = await temporaryDirectory();
    program = await scriptedRbd(directory.path);
    rbd = rbdWith(
      scriptedVirsh(() => ({ stdout: `${KEY}\n` })),
      join(directory.path, 'keys'),
    );
  });
  afterEach(async () => {
    program[Symbol.dispose]();
    await directory[Symbol.asyncDispose]();
  });

  it('are reached with a key that is in no argument, and in a file only meanwhile', async () => {
    await rbd.createSnapshot(IMAGE, 's');
    const [told = ''] = await program.told();
    assert.match(told, /--mon-host=m:3300 --id=vm .*snap create --no-progress p\/i@s/);
    const [argv, key] = told.split(' key=');
    assert.ok(!argv?.includes(KEY));
    assert.equal(key, KEY);
    assert.deepEqual(await readdir(directory.path), ['bin']);
  });

  it('have nothing to remove when they are not there', async () => {
    const gone: RbdAnswer = {
      exitCode: 2,
      stderr: 'rbd: error opening image i: (2) No such file or directory',
    };
    for (const subcommand of ['rm', 'snap-rm', 'snap-ls', 'info']) await program.answer(subcommand, gone);
    await rbd.remove(IMAGE);
    await rbd.removeSnapshot(IMAGE, 's');
    assert.deepEqual(await rbd.snapshots(IMAGE), []);
    assert.equal(await rbd.find(IMAGE), undefined);
    await assert.rejects(rbd.info(IMAGE), { reason: 'VOLUME_NOT_FOUND' });
  });

  for (const [stderr, exitCode, reason, message] of [
    ["rbd: error opening default pool 'p'", 2, 'VOLUME_NOT_FOUND', /p\/i: error opening default pool/],
    ['rbd: couldn’t connect: (1) Operation not permitted', 1, 'VOLUME_REFUSED', /m:3300 refuses client\.vm/],
    ['rbd: couldn’t connect: (13) Permission denied', 1, 'VOLUME_REFUSED', /m:3300 refuses client\.vm/],
    [
      'rbd: couldn’t connect: (110) Connection timed out',
      1,
      'VOLUME_STALLED',
      /m:3300 did not answer in time/,
    ],
    ['rbd: something else', 1, 'QEMU_FAILED', /p\/i: something else/],
  ] as const) {
    it(`tell a failure's reason: ${reason} for ${stderr}`, async () => {
      await program.answer('info', {
        exitCode,
        stderr: `2026-11-24T20:00:00.000 -1 a line of the log\n${stderr}\n`,
      });
      await assert.rejects(rbd.find(IMAGE), { reason, message });
    });
  }

  it('cannot be made over others', async () => {
    const exists: RbdAnswer = { exitCode: 17, stderr: 'rbd: create error: (17) File exists' };
    for (const subcommand of ['create', 'rename']) await program.answer(subcommand, exists);
    await assert.rejects(rbd.create(IMAGE, 1), { reason: 'TARGET_EXISTS' });
    await assert.rejects(rbd.rename(IMAGE, 'other'), { reason: 'TARGET_EXISTS', message: /p\/other/ });
  });
});

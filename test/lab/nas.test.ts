import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readdir, statfs, writeFile } from 'node:fs/promises';
import { Socket } from 'node:net';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { startGanesha } from './ganesha.ts';
import { MiB } from './spec.ts';
import { startSamba } from './samba.ts';

describe('file servers of the lab', () => {
  for (const start of [startGanesha, startSamba]) {
    it(`${start.name} can be filled, emptied, killed, started and hung, and leaves nothing behind`, async () => {
      await using nas = await start();
      const { directory } = nas;
      assert.equal(await answers(nas.port), true);
      await nas.fill(MiB);
      const { bavail, bsize } = await statfs(nas.files);
      assert.ok(bavail * bsize <= MiB);
      await nas.free();
      await writeFile(path.join(nas.files, 'backups', 'file'), '');
      await nas.kill();
      assert.equal(await answers(nas.port), false);
      await nas.start();
      assert.deepEqual(await readdir(path.join(nas.files, 'backups')), ['file']);
      await nas.replaceFiles();
      assert.equal(await answers(nas.port), true);
      assert.deepEqual(await readdir(path.join(nas.files, 'backups')), []);
      await nas.hang();
      await nas.resume();
      await nas.hang();
      await nas[Symbol.asyncDispose]();
      await until('Nothing is left', 10_000, async () =>
        (await remains(directory)).length === 0 ? true : undefined,
      );
    });
  }
});

async function answers(port: number): Promise<boolean> {
  const socket = new Socket();
  return new Promise((resolve) => {
    socket.once('connect', () => {
      resolve(true);
    });
    socket.once('error', () => {
      resolve(false);
    });
    socket.connect(port, '127.0.0.1');
  }).finally(() => socket.destroy()) as Promise<boolean>;
}

/** Processes that name the lab in their arguments, loop devices over its files, and its directory. */
async function remains(directory: string): Promise<string[]> {
  const { stdout } = await execa('pgrep', ['--full', '--list-full', directory], { reject: false });
  const loops = await execa('losetup', ['--list', '--noheadings', '--output', 'BACK-FILE']);
  return [
    ...stdout.split('\n').filter(Boolean),
    ...loops.stdout.split('\n').filter((file) => file.includes(directory)),
    ...(existsSync(directory) ? [directory] : []),
  ];
}

import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { beforeText, type GuestDisk } from '../lab/spec.ts';

const MINUTE = 60_000;

/** Images that a restore made, raw, by target name. */
export type Restored = ReadonlyMap<string, string>;

/** The image files in the folder of a restore. */
export async function restoredIn(directory: string, targets: readonly string[]): Promise<Restored> {
  const names = await readdir(directory, { recursive: true });
  return new Map(
    targets.map((target) => {
      const name = names.find((each) => path.basename(each).endsWith(`${target}.raw`));
      if (name === undefined) throw new Error(`The restore made no ${target}.raw, only ${names.join(', ')}`);
      return [target, path.join(directory, name)];
    }),
  );
}

/** The disk to which nothing was written meanwhile came back byte for byte. Throws when it did not. */
export async function proveResting(source: GuestDisk, restored: string): Promise<void> {
  const images = [source.path ?? '', restored];
  // -U: the guest has the source open.
  await execa('qemu-img', ['compare', '-U', '-f', source.format, '-F', 'raw', ...images], {
    timeout: 5 * MINUTE,
  });
  say(`${source.target}: every byte is as in the source (qemu-img compare)`);
}

/** The disk that was written to all the time came back as it was at one instant. Throws when it did not. */
export async function proveBusy(target: string, restored: string): Promise<void> {
  // -n: it was frozen when it was taken, so nothing may need a repair, not even a replay of the journal.
  await execa('e2fsck', ['-f', '-n', restored], { timeout: 5 * MINUTE });
  say(`${target}: the file system is clean (e2fsck -f -n)`);

  assert.equal(await contentOf(restored, '/before.txt'), beforeText);
  say(`${target}: the file from before the backup is there`);
  assert.equal(await contentOf(restored, '/during.txt'), '');
  say(`${target}: the file from while it ran is not`);

  // The guest's writer appends number after number, each on the disk before the next.
  const counted = (await contentOf(restored, '/busy/counter')).trim().split('\n').map(Number);
  assert.ok(counted.length > 0);
  assert.deepEqual(
    counted,
    Array.from(counted, (_, index) => index + 1),
  );
  say(`${target}: the writer's counter has every number from 1 to ${counted.length}`);
}

/** A file in the ext4 of a raw image, empty when it is not there. */
async function contentOf(image: string, file: string): Promise<string> {
  const { stdout } = await execa('debugfs', ['-R', `cat ${file}`, image], {
    timeout: MINUTE,
    stripFinalNewline: false,
  });
  return stdout;
}

function say(proved: string): void {
  console.log(`  proved  ${proved}`);
}

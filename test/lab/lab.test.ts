import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { mountsBelow } from './directory.ts';
import type { Guest } from './guest.ts';
import { startLab } from './lab.ts';
import { beforeText } from './spec.ts';

describe('lab', () => {
  it('runs two hosts side by side and leaves nothing behind', async () => {
    const directories: string[] = [];
    {
      await using first = await startLab();
      await using second = await startLab();
      directories.push(first.directory, second.directory);
      const guests = await Promise.all(
        [first, second].map((lab) =>
          lab.guest({
            name: 'same, "name" <&> on \'both\' ö',
            disks: [
              { target: 'vda', fileName: 'a, "b" c=ö.qcow2', content: { kind: 'files', marker: 'SECRET' } },
              { target: 'hda', device: 'cdrom' },
              { target: 'fda', device: 'floppy' },
            ],
            writerMiBPerSecond: 1,
          }),
        ),
      );
      await Promise.all(guests.map((guest) => guest.waitReady()));
      assert.notEqual(guests[0]?.uuid, guests[1]?.uuid);
      await Promise.all(guests.map(exercise));
    }
    for (const directory of directories) assert.deepEqual(await remains(directory), []);
  });

  it('has every kind of disk, and powers off by the power button without guest agent', async () => {
    await using lab = await startLab({ qemuUser: 'libvirt-qemu' });
    const small = { kind: 'files', fileBytes: 1 } as const;
    const guest = await lab.guest({
      agent: false,
      disks: [
        { target: 'vda', content: small },
        { target: 'vdb', sizeBytes: 3_000_000, content: { kind: 'random', everyMiB: 2, marker: 'SECRET' } },
        { target: 'vdc', format: 'raw', shareable: true, content: { kind: 'pattern' } },
        { target: 'vdd', transient: true },
        { target: 'vde', readOnly: true, content: small },
        { target: 'hda', device: 'cdrom', content: { kind: 'pattern' } },
        { target: 'fda', device: 'floppy', sizeBytes: 1_474_560, content: { kind: 'empty' } },
        { target: 'sda', content: small },
      ],
    });
    await guest.waitReady();
    assert.deepEqual(
      [...(await guest.console()).matchAll(/no file system on (\S+)/g)].map((match) => match[1]),
      ['vdb', 'vdc', 'vdd'],
    );
    await guest.shutdown('acpi');
  });

  it('goes on after libvirtd was killed, and after a power failure', async () => {
    await using lab = await startLab();
    const guest = await lab.guest({ disks: [{ target: 'vda', content: { kind: 'files' } }] });
    await lab.killLibvirtd();
    await assert.rejects(guest.state());
    await lab.startLibvirtd();
    assert.equal(await guest.state(), 'running');

    const process = await lab.spawn('sleeper', ['sleep', '1000']);
    await lab.crash();
    assert.equal(await process.ended, 'SIGKILL');
    await lab.boot();
    assert.equal(await guest.state(), 'shut off');
    const xml = await guest.xml();
    await guest.undefine();
    const again = await lab.define(xml);
    await again.start();
    await again.waitReady();
    assert.equal(await again.readFile('/data/before.txt'), beforeText);
  });

  it('ends with its owner, even by SIGKILL', async () => {
    const owner = execa(process.execPath, [path.join(import.meta.dirname, 'shell.ts')], { reject: false });
    const [line] = (await once(owner.stdout, 'data', { signal: AbortSignal.timeout(60_000) })) as [Buffer];
    const directory = /directory +(\S+)/.exec(line.toString())?.[1];
    assert.ok(directory, line.toString());
    owner.kill('SIGKILL');
    await until(`Nothing is left of ${directory}`, 20_000, async () =>
      (await remains(directory)).length === 0 ? true : undefined,
    );
  });
});

async function exercise(guest: Guest): Promise<void> {
  assert.equal(await guest.readFile('/data/before.txt'), beforeText);
  assert.match(await guest.readFile('/data/marker.bin'), /^SECRET/);
  await guest.writeFile('/data/during.txt', 'Schön.\n');
  assert.equal(await guest.readFile('/data/during.txt'), 'Schön.\n');

  await guest.freeze();
  assert.equal(await guest.command('guest-fsfreeze-status'), 'frozen');
  await guest.thaw();
  assert.equal(await guest.command('guest-fsfreeze-status'), 'thawed');
  const { exitCode, stdout } = await guest.exec(['/bin/cat', '/data/busy/counter']);
  assert.equal(exitCode, 0);
  assert.ok(stdout.startsWith('1\n'));

  await guest.suspend();
  assert.equal(await guest.state(), 'paused');
  await guest.resume();
  await guest.shutdown();
}

/** Processes that name the lab in their arguments, mounts below it, and the directory itself. */
async function remains(directory: string): Promise<string[]> {
  const found = await mountsBelow(directory);
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const argv = await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '');
    if (argv.includes(directory)) found.push(argv.replaceAll('\0', ' '));
  }
  const names = await readdir(path.dirname(directory));
  return [...found, ...names.filter((name) => name === path.basename(directory))];
}

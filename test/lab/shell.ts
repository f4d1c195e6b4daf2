import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { startLab } from './lab.ts';
import { MiB } from './spec.ts';

/** A lab with one guest for a person to work with, until Ctrl-C (or SIGTERM). */
const { values } = parseArgs({
  options: {
    files: { type: 'string', default: '64' },
    writer: { type: 'string', default: '0' },
    'no-agent': { type: 'boolean', default: false },
    'qemu-user': { type: 'string', default: 'root' },
    help: { type: 'boolean', default: false },
  },
});

if (values.help) {
  console.log(
    'node test/lab/shell.ts [--files MIB] [--writer MIB_PER_SECOND] [--no-agent] [--qemu-user USER]',
  );
} else {
  const stop = Promise.race([once(process, 'SIGINT'), once(process, 'SIGTERM')]);
  await using lab = await startLab({ qemuUser: values['qemu-user'] });
  const guest = await lab.guest({
    disks: [{ target: 'vda', content: { kind: 'files', fileBytes: Number(values.files) * MiB } }],
    writerMiBPerSecond: Number(values.writer),
    agent: !values['no-agent'],
  });
  await guest.waitReady();
  console.log(`Guest ${guest.name} (${guest.uuid}) is ready.
  directory   ${lab.directory}
  virsh       virsh -c '${lab.libvirtUri}'
  inside      ${lab.enter(['bash']).join(' ')}
Ctrl-C removes all of it.`);
  await stop;
}

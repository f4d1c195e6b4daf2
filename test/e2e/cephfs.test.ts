import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  AddRepositoryRequest,
  RepositoryType,
  type Repository,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { nothingLeft } from '../faults/support/nothingLeft.ts';
import { useHoldfast } from '../harness/fixture.ts';
import { failed, succeeded, type Followed } from '../harness/follow.ts';
import { processesNaming } from '../harness/leftovers.ts';
import { namesBelow } from '../harness/namesBelow.ts';
import { startCeph, type Ceph } from '../lab/ceph.ts';
import { until } from '../lab/deadline.ts';
import { mountsBelow } from '../lab/directory.ts';
import { MiB } from '../lab/spec.ts';
import { isStart } from './support/events.ts';
import { requireSameContent } from './support/images.ts';
import { nasbackup, restoreAsCloudStack } from './support/nasbackup.ts';
import { controllerEnvironment, pageOf, type CommandEnd } from './support/page.ts';

const HOLDFAST = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');
/** So that there is time to do something in the middle. */
const SLOWLY = { 'nas.backup.bandwidth.limit.mbps': '8' };
/** Of a user who can back up. */
const CAPABILITIES = ['mon', 'allow r', 'osd', 'allow rw', 'mds', 'allow rw'];

describe('a repository on a CephFS', () => {
  const fixture = useHoldfast({
    guest: { disks: [{ target: 'vda', sizeBytes: 48 * MiB, content: { kind: 'random' } }], start: false },
  });
  const stack = new AsyncDisposableStack();
  let ceph: Ceph;
  let key: string;
  /** The whole file system, to make exports on it and to look at what lies there. */
  let outside: string;
  before(async () => {
    ceph = stack.use(await startCeph());
    ({ key } = await ceph.makeUser('client.backup', CAPABILITIES));
    outside = path.join(ceph.directory, 'outside');
    await mkdir(outside);
    await execa('ceph-fuse', ['-c', ceph.confPath, '-n', 'client.admin', outside]);
    stack.defer(async () => {
      await execa('umount', [outside]);
    });
    for (const name of ['nas', 'odd', 'shared', 'killed', 'other', 'cloudstack', 'changed'])
      await mkdir(path.join(outside, exported(name)));
    for (const name of ['nas', 'shared', 'killed']) await add(name);
  });
  after(() => stack.disposeAsync());
  afterEach(() => nothingLeft(fixture.lab, fixture.holdfast));

  function exported(name: string): string {
    return name === 'odd' ? `o'dd, "näs" x` : name;
  }
  function request(name: string, more: Partial<AddRepositoryRequest> = {}): AddRepositoryRequest {
    return AddRepositoryRequest.fromPartial({
      zone: 'z1',
      name,
      type: RepositoryType.REPOSITORY_TYPE_CEPH,
      address: `${ceph.monitors}:/${exported(name)}`,
      credentials: { username: 'backup', password: key, domain: '' },
      ...more,
    });
  }
  async function add(
    name: string,
    more: Partial<AddRepositoryRequest> = {},
  ): Promise<Repository | undefined> {
    const { client } = fixture.holdfast;
    return (
      await client.call(client.repositories.addRepository.bind(client.repositories), request(name, more))
    ).repository;
  }
  const backup = (
    repository: string,
    settings: Record<string, string> = {},
    onStart?: (jobId: string) => Promise<void>,
  ): Promise<Followed> => {
    const { guest, holdfast } = fixture;
    const { client } = holdfast;
    return client
      .startBackup({ zone: 'z1', domain: guest.name, repository, settings })
      .then(({ id }) =>
        client.follow(id, (event) => (isStart(event, Stage.STAGE_BLOCKJOB) ? onStart?.(id) : undefined)),
      );
  };
  const mounts = (): Promise<readonly string[]> => mountsBelow(fixture.holdfast.agent.runtimeDirectory);

  it('is added, shown and listed by the command, without its key', async () => {
    const { holdfast } = fixture;
    const file = path.join(holdfast.directory, 'key');
    await writeFile(file, `${key}\n`, { mode: 0o600 });
    const address = `${ceph.monitors}:/odd/../odd`;
    const controller = holdfast.controller.address;
    const flags = ['--controller', `unix:${controller.kind === 'unix' ? controller.path : ''}`];
    const added = ['repository', 'add', 'odd', '--zone', 'z1', '--type', 'ceph', '--username', 'backup'];
    const password = ['--password-file', file];
    const bad = await execa(HOLDFAST, [...flags, ...added, ...password, '--address', address], {
      reject: false,
    });
    assert.equal(bad.exitCode, 2, bad.stderr);
    assert.match(bad.stderr, /write the path that it leads to/);
    const good = `${ceph.monitors}:/${exported('odd')}`;
    const secure = ['--option', 'ms_mode=prefer-crc', '--option', `fs=${ceph.fileSystem}`];
    await execa(HOLDFAST, [...flags, ...added, ...password, '--address', good, ...secure]);
    const page = await pageOf('docs/repositories.md');
    const step = async (which: RegExp, words: Readonly<Record<string, string>>): Promise<string> => {
      const all = { home: 'z1', ...words };
      const { exitCode, stdout, stderr } = await page.command(which, all, controllerEnvironment(holdfast));
      assert.equal(exitCode, 0, `${stdout}${stderr}`);
      return stdout;
    };
    await step(/--type ceph/, { 'mon1:6789,mon2:6789:/backups': `${ceph.monitors}:/nas`, FILE: file });
    const here = await holdfast.restoreDirectory();
    assert.match(await step(/^holdfast repository list/m, { '/mnt/nas': here }), /files[^]*here/);
    await rm(file);
    const shown = await execa(HOLDFAST, [...flags, 'repository', 'show', 'odd']);
    assert.match(shown.stdout, /ceph[^]*ms_mode=prefer-crc/);
    const listed = await execa(HOLDFAST, [...flags, 'repository', 'list', '--json']);
    assert.ok(listed.stdout.includes(JSON.stringify(good)));
    assert.ok(!`${shown.stdout}${listed.stdout}`.includes(key));
    succeeded(await backup('odd'));
  });

  it('takes a backup, proves it, restores it and deletes it, and is unmounted after each', async () => {
    const { guest, holdfast } = fixture;
    const { client, agent } = holdfast;
    const { operation } = await backup('nas', { 'nas.backup.integrity.check': 'true' });
    assert.equal(operation.error, undefined);
    const { backupId } = operation;
    const { path: folder } = await client.getBackup(backupId);
    assert.ok((await readdir(path.join(outside, 'nas', folder))).includes('manifest.json'));
    await nothingLeft(fixture.lab, holdfast);
    succeeded(await client.verifyBackup({ backupId }));
    const directory = await holdfast.restoreDirectory();
    succeeded(await client.restoreBackup({ backupId, host: agent.hostName, directory }));
    const [file = ''] = (await readdir(directory)).filter((name) => name.includes('vda'));
    const [source] = guest.disks;
    assert.ok(source);
    await requireSameContent(source, { path: path.join(directory, file), format: 'qcow2' });
    succeeded(await client.deleteBackup(backupId));
    assert.deepEqual(
      (await readdir(path.join(outside, 'nas'))).filter((name) => name === folder),
      [],
    );
  });

  it('takes backups from the drop-in, with the address and mount options that CloudStack gives', async () => {
    const { guest, holdfast } = fixture;
    const folder = 'i-2-10-VM/2026.01.31.12.00.00';
    const storage = ['-t', 'ceph', '-s', `${ceph.monitors}:/cloudstack`];
    const options = ['-m', `name=backup,secret=${key},mount_timeout=30`];
    const [{ path: volume = '' } = {}] = guest.disks;
    const backedUp = ['-v', guest.name, '-p', folder, '-q', 'false', '-d', volume];
    const taken = await nasbackup(holdfast, ['-o', 'backup', ...storage, ...options, ...backedUp]);
    assert.equal(taken.exitCode, 0, taken.stdout);
    const image = `root.${path.basename(volume)}.qcow2`;
    const inside = path.join(outside, 'cloudstack');
    assert.deepEqual(await readdir(path.join(inside, folder)), [image]);
    await nothingLeft(fixture.lab, holdfast);
    const to = path.join(await holdfast.restoreDirectory(), 'root');
    await restoreAsCloudStack(inside, `${folder}/${image}`, to, 'rsync');
    await requireSameContent({ path: volume, format: 'qcow2' }, { path: to, format: 'qcow2' });

    const told = await nasbackup(holdfast, ['-o', 'stats', ...storage, ...options]);
    assert.match(told.stdout, /^\/\S+\n\d+ \d+$/);
    const deleted = await nasbackup(holdfast, ['-o', 'delete', ...storage, ...options, '-p', folder]);
    assert.equal(deleted.exitCode, 0, deleted.stdout);
    assert.deepEqual(await readdir(path.join(inside, path.dirname(folder))), []);
    const wrong = ['-m', `name=backup,secret=${key},exec`];
    const refused = await nasbackup(holdfast, ['-o', 'stats', ...storage, ...wrong]);
    assert.equal(refused.exitCode, 1);
    assert.match(refused.stdout, /exec/);
    const said = [taken, told, deleted, refused].map(({ stdout, stderr }) => `${stdout}${stderr}`).join('');
    assert.ok(!`${said}${await holdfast.logs()}`.includes(key));
    assert.deepEqual(await processesNaming(key), []);
  });

  it('is mounted once for all who work on it, and its key lies nowhere', async () => {
    const { holdfast } = fixture;
    const { client } = holdfast;
    const followed = await backup('shared', SLOWLY, async () => {
      assert.equal((await mounts()).length, 1);
      const all = client.repositories.getRepository.bind(client.repositories);
      await Promise.all([1, 2, 3].map(() => client.call(all, { name: 'shared' })));
      assert.equal((await mounts()).length, 1);
      const { stdout } = await execa('grep', ['-rlF', '--', key, holdfast.directory], { reject: false });
      assert.equal(stdout, '');
      assert.deepEqual(await processesNaming(key), []);
    });
    succeeded(followed);
    assert.ok(!(await holdfast.logs()).includes(key));
  });

  it('is refused for a wrong address, user, key or option, and nothing is made', async () => {
    const credentials = { username: 'backup', password: key, domain: '' };
    const other = Buffer.from(key, 'base64');
    other[other.length - 1] = (other.at(-1) ?? 0) ^ 1;
    await ceph.makeUser('client.reader', ['mon', 'allow r', 'osd', 'allow r', 'mds', 'allow r']);
    const reader = (await ceph.ceph(['auth', 'get-key', 'client.reader'])).trim();
    const quick = { mountOptions: ['mount_timeout=3'] };
    for (const [more, reason, message] of [
      [{ address: `${ceph.monitors}:/nowhere` }, 'MOUNT_FAILED', /No such file/],
      [{ ...quick, credentials: { ...credentials, username: 'nobody' } }, 'MOUNT_FAILED', /name or key/],
      [
        { ...quick, credentials: { ...credentials, password: other.toString('base64') } },
        'MOUNT_FAILED',
        /name or key/,
      ],
      [{ ...quick, address: '127.0.0.1:1:/' }, 'REPOSITORY_STALLED', /does not answer/],
      [{ ...quick, address: 'no-such-host.invalid:/' }, 'MOUNT_FAILED', /no-such-host/],
      [{ credentials: { ...credentials, username: 'reader', password: reader } }, 'REPOSITORY_UNUSABLE', /./],
      [{ mountOptions: ['fs=none'] }, 'MOUNT_FAILED', /./],
      [{ mountOptions: ['secret=not-to-be-told'] }, 'INVALID_REQUEST', /fields of their own/],
      [{ mountOptions: ['exec'] }, 'INVALID_REQUEST', /exec/],
      [{ mountOptions: ['rsize=1048576'] }, 'MOUNT_FAILED', /kernel/],
      [{ credentials: undefined }, 'INVALID_REQUEST', /credentials/],
      [{ address: '/other' }, 'INVALID_REQUEST', /form/],
      [{ path: '/other' }, 'INVALID_REQUEST', /no path/],
    ] as const) {
      await assert.rejects(add('other', more), (error: { reason: string; message: string }) => {
        assert.equal(error.reason, reason, error.message);
        assert.match(error.message, message);
        assert.ok(!error.message.includes(key) && !error.message.includes('not-to-be-told'));
        return true;
      });
      assert.deepEqual(await mounts(), []);
    }
    assert.deepEqual(await readdir(path.join(outside, 'other')), []);
  });

  it('goes on under another user once that one has proved to be allowed to, and the old one can go', async () => {
    const { holdfast } = fixture;
    const { key: before } = await ceph.makeUser('client.before', CAPABILITIES);
    const { key: after } = await ceph.makeUser('client.after', CAPABILITIES);
    const mountOptions = ['mount_timeout=3'];
    await add('changed', { mountOptions, credentials: { username: 'before', password: before, domain: '' } });
    succeeded(await backup('changed'));
    const file = path.join(holdfast.directory, 'changed-key');
    const page = await pageOf('docs/repositories.md');
    const setTo = async (password: string): Promise<CommandEnd> => {
      await writeFile(file, password, { mode: 0o600 });
      const words = { share: 'changed', 'backup ': 'after ', FILE: file };
      const end = await page.command(
        /^holdfast repository set-credentials/m,
        words,
        controllerEnvironment(holdfast),
      );
      await rm(file);
      return end;
    };
    const wrong = await setTo(before);
    assert.equal(wrong.exitCode, 4, wrong.stdout);
    assert.match(wrong.stderr, /name or key.*\[MOUNT_FAILED\]/);
    const idFile = path.join(outside, 'changed', 'repository-id');
    const id = await readFile(idFile, 'utf8');
    await writeFile(idFile, `${randomUUID()}\n`);
    const elsewhere = await setTo(after);
    assert.match(elsewhere.stderr, /\[REPOSITORY_MISMATCH\]/);
    await writeFile(idFile, id);
    succeeded(await backup('changed'));
    const right = await setTo(after);
    assert.equal(right.exitCode, 0, right.stderr);
    await ceph.ceph(['auth', 'rm', 'client.before']);
    succeeded(await backup('changed'));
    const said = [wrong, elsewhere, right].map(({ stdout, stderr }) => `${stdout}${stderr}`).join('');
    assert.ok(!`${said}${await holdfast.logs()}`.includes(after));
  });

  it('that is another file system than last time is refused, and untouched', async () => {
    const file = path.join(outside, 'nas', 'repository-id');
    const id = await readFile(file, 'utf8');
    const before = await readdir(path.join(outside, 'nas'));
    await writeFile(file, `${randomUUID()}\n`);
    assert.equal(failed(await backup('nas')).reason, 'REPOSITORY_MISMATCH');
    await rm(file);
    assert.equal(failed(await backup('nas')).reason, 'REPOSITORY_MISMATCH');
    assert.deepEqual(
      await readdir(path.join(outside, 'nas')),
      before.filter((name) => name !== 'repository-id'),
    );
    await writeFile(file, id);
    succeeded(await backup('nas'));
  });

  it('that Holdfast knows already keeps its id under another name', async () => {
    const id = (await readFile(path.join(outside, 'nas', 'repository-id'), 'utf8')).trim();
    const again = await add('again', { address: `${ceph.monitors}:/nas` });
    assert.equal(again?.repositoryId, id);
  });

  it('is unmounted after its runner was killed, by whoever undoes the job', async () => {
    const followed = await backup('killed', SLOWLY, (jobId) => kill(jobId, 'runner.ts'));
    assert.equal(failed(followed).reason, 'RUNNER_DIED');
    await nothingLeft(fixture.lab, fixture.holdfast);
    const left = await namesBelow(path.join(outside, 'killed'));
    assert.deepEqual(
      left.filter((name) => name.includes('.partial')),
      [],
    );
  });

  it('stays mounted for a backup whose agent was killed, and is unmounted at the end', async () => {
    const { agent } = fixture.holdfast;
    const followed = await backup('killed', SLOWLY, async () => {
      await agent.kill();
      assert.equal((await mounts()).length, 1);
      await agent.start();
    });
    succeeded(followed);
  });

  it('is cleaned by the next agent when everything was killed and unmounted, as by a power cut', async () => {
    const { agent } = fixture.holdfast;
    const followed = await backup('killed', SLOWLY, async (jobId) => {
      await agent.kill();
      await kill(jobId, 'runner.ts');
      for (const point of await mounts()) await execa('umount', ['--lazy', point]);
      await agent.start();
    });
    assert.equal(failed(followed).reason, 'RUNNER_DIED');
    // An agent keeps no password: it comes again with the controller.
    await until('The partial folder is gone', 60_000, async () => {
      const left = await namesBelow(path.join(outside, 'killed'));
      return left.some((name) => name.includes('.partial')) ? undefined : true;
    });
    await until('The mount is gone', 20_000, async () => ((await mounts()).length === 0 ? true : undefined));
  });
});

async function kill(text: string, also: string): Promise<void> {
  const found = (await processesNaming(text)).filter(({ argv }) => argv.join(' ').includes(also));
  assert.ok(found.length > 0);
  for (const { pid } of found) process.kill(pid, 'SIGKILL');
}

import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { run } from './run.ts';
import { fakeTerminal, type FakeTerminal, type FakeTerminalOptions } from './testing/fake-terminal.ts';
import { scriptedController, type ScriptedController } from './testing/scripted-controller.ts';

const SECRET = 'correct horse battery staple';
const PASSPHRASE = 'nas.backup.encryption.passphrase';

async function typed(
  argv: readonly string[],
  options: FakeTerminalOptions = {},
): Promise<{ code: number; terminal: FakeTerminal }> {
  const terminal = fakeTerminal(options);
  const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
  return { code: await run(argv, { terminal, loadParts }), terminal };
}

describe('command line', () => {
  let controller: ScriptedController;
  beforeEach(async () => {
    controller = await scriptedController([]);
  });
  afterEach(() => controller.close());

  const to = (...argv: string[]): string[] => ['--controller', controller.address, ...argv];

  it('shows help and version with success', async () => {
    for (const argv of [['--help'], ['backup', '--help'], ['help'], ['--version']]) {
      const { code, terminal } = await typed(argv);
      assert.equal(code, 0, argv.join(' '));
      assert.notEqual(terminal.printed.out, '');
      assert.equal(terminal.printed.err, '');
    }
  });

  it('refuses what it does not understand with code 2 and one line', async () => {
    const lines = [
      ['frobnicate'],
      ['backup', 'vm1'],
      ['backup', '--zone', 'z'],
      ['backup', 'vm1', '--zone', 'z', '--bandwidth=-1'],
      ['backup', 'vm1', '--zone', 'z', '--bandwidth', '99999999'],
      ['backup', 'vm1', '--zone', 'z', '--compress=lzma'],
      ['backup', 'vm1', '--zone', 'z', '--quiesce', 'maybe'],
      ['backup', 'vm1', '--zone', 'z', '--set', 'nas.backup.nonsense=1'],
      ['backup', 'vm1', '--zone', 'z', '--check', '--set', 'nas.backup.integrity.check=false'],
      ['backup', 'vm1', '--zone', 'z', '--request-id', 'x'],
      ['restore', 'b', '--host', 'h', '--directory', 'relative'],
      ['restore', 'b', '--host', 'h'],
      ['restore', 'b', '--host', 'h', '--rbd-pool', 'p'],
      ['restore', 'b', '--host', 'h', '--directory', '/d', '--rbd-user', 'u'],
      ['restore', 'b', '--host', 'h', '--directory', '/d', '--format', 'vmdk'],
      ['set-bandwidth', 'op', 'fast'],
      ['operations', '--state', 'broken'],
      ['operations', '--state', 'unspecified'],
      ['operations', '--since', 'yesterday'],
      ['operations', '--before', '2026-13-01'],
      ['operations', '--since', '1'],
      ['delete', 'b'],
      ['zone', 'set', 'z'],
      ['zone', 'set', 'nas.backup.integrity.check=true'],
      ['zone', 'set', 'z', '--unset', 'nonsense'],
      ['--controller', '10.0.0.1:7600', 'list'],
      ['verify', 'b', '--ask-passphrase'],
      ['verify', 'b', '--passphrase-file', '/not/there'],
    ];
    for (const argv of lines) {
      const { code, terminal } = await typed(argv);
      assert.equal(code, 2, argv.join(' '));
      assert.match(terminal.printed.err, /^holdfast: .+ \[[A-Z_]+\]\n$/, argv.join(' '));
    }
  });

  it('never takes a passphrase from the command line, and never repeats it', async () => {
    for (const argv of [
      ['zone', 'set', 'z', `${PASSPHRASE}=${SECRET}`],
      ['zone', 'set', '--global', `${PASSPHRASE}=${SECRET}`],
      ['zone', 'set', 'z', PASSPHRASE, SECRET],
      ['zone', 'set', 'z', SECRET],
      ['backup', 'vm1', '--zone', 'z', '--set', `${PASSPHRASE}=${SECRET}`],
    ]) {
      const { code, terminal } = await typed(to(...argv));
      assert.equal(code, 2, argv.join(' '));
      assert.ok(!terminal.printed.err.includes(SECRET));
    }
    const { terminal } = await typed(to('zone', 'set', 'z', `${PASSPHRASE}=x`));
    assert.match(terminal.printed.err, /--passphrase-file/);
    assert.deepEqual(controller.settingsSet, []);
  });

  it('takes a passphrase from a file, from standard input or from a question, and does not print it', async () => {
    const set = to('zone', 'set', 'z');
    const files = { '/secret': `${SECRET}\n`, '-': `${SECRET}\r\n` };
    const sources: [string[], FakeTerminalOptions][] = [
      [['--passphrase-file', '/secret'], { files }],
      [['--passphrase-file', '-'], { files }],
      [['--ask-passphrase'], { isTerminal: true, answers: [SECRET, SECRET] }],
    ];
    for (const [argv, options] of sources) {
      const { code, terminal } = await typed([...set, ...argv], options);
      assert.equal(code, 0, terminal.printed.err);
      assert.equal(controller.settingsSet.at(-1)?.values[PASSPHRASE], SECRET);
      assert.ok(!`${terminal.printed.out}${terminal.printed.err}`.includes(SECRET));
    }
    const { code } = await typed([...set, '--ask-passphrase'], { isTerminal: true, answers: ['a', 'b'] });
    assert.equal(code, 2);
    assert.equal((await typed([...set, '--passphrase-file', '/e'], { files: { '/e': '\n' } })).code, 2);
  });

  it('adds a repository with what is to be mounted, its password from a file or a question', async () => {
    const add = to('repository', 'add', 'nas', '--zone', 'z', '--type', 'cifs', '--address', '\\\\nas\\x');
    const files = { '/password': `${SECRET}\n` };
    const sources: [string[], FakeTerminalOptions][] = [
      [['--password-file', '/password'], { files }],
      [['--ask-password'], { isTerminal: true, answers: [SECRET] }],
    ];
    for (const [argv, options] of sources) {
      const more = ['--option', 'seal', '--option', 'rsize=65536', '--username', 'u', '--domain', 'd'];
      const { code, terminal } = await typed([...add, ...more, ...argv], options);
      assert.equal(code, 0, terminal.printed.err);
      assert.deepEqual(controller.repositoriesAdded.at(-1), {
        ...{ zone: 'z', name: 'nas', path: '', type: 3, address: '\\\\nas\\x' },
        mountOptions: ['seal', 'rsize=65536'],
        credentials: { username: 'u', password: SECRET, domain: 'd' },
      });
      assert.ok(!`${terminal.printed.out}${terminal.printed.err}`.includes(SECRET));
    }
    for (const argv of [
      ['--username', 'u'],
      ['--password-file', '/password'],
      ['--domain', 'd'],
      ['--username', 'u', '--password-file', '/password', '--ask-password'],
      ['--username', 'u', '--password-file', '/nowhere'],
      ['--username', 'u', '--password', SECRET],
      ['--type', 'smb'],
    ]) {
      const { code, terminal } = await typed([...add, ...argv], { files });
      assert.equal(code, 2, argv.join(' '));
      assert.ok(!terminal.printed.err.includes(SECRET));
    }
    assert.equal(controller.repositoriesAdded.length, sources.length);
    await typed(to('repository', 'add', 'local', '/mnt/nas', '--zone', 'z'));
    assert.equal(controller.repositoriesAdded.at(-1)?.path, '/mnt/nas');
  });

  it('sets settings of a zone or of all', async () => {
    await typed(to('zone', 'set', 'z', 'nas.backup.integrity.check=TRUE', '--unset', 'nas.backup.quiesce'));
    await typed(to('zone', 'set', '--global', 'nas.backup.bandwidth.limit.mbps=040'));
    assert.deepEqual(controller.settingsSet, [
      { zone: 'z', values: { 'nas.backup.integrity.check': 'true' }, clear: ['nas.backup.quiesce'] },
      { zone: '', values: { 'nas.backup.bandwidth.limit.mbps': '40' }, clear: [] },
    ]);
  });

  it('turns the flags of a backup into settings', async () => {
    const requestId = randomUUID();
    const { code, terminal } = await typed(
      to(
        ...['backup', '--zone', 'z', '--compress', 'vm 1', '--encrypt', '--bandwidth', '40', '--check'],
        ...['--quiesce', 'required', '--set', 'nas.backup.compression.algorithm=zlib'],
        ...['--request-id', requestId, '--allow-plaintext', '--detach'],
      ),
    );
    assert.equal(code, 0, terminal.printed.err);
    assert.match(terminal.printed.out, /holdfast --controller unix:\S+ watch op-1;/);
    assert.deepEqual(controller.taken, [
      {
        zone: 'z',
        domain: 'vm 1',
        host: '',
        repository: '',
        settings: {
          'nas.backup.compression.enabled': 'true',
          'nas.backup.compression.algorithm': 'zlib',
          'nas.backup.encryption.enabled': 'true',
          'nas.backup.bandwidth.limit.mbps': '40',
          'nas.backup.integrity.check': 'true',
          'nas.backup.quiesce': 'required',
        },
        allowPlaintext: true,
        requestId,
      },
    ]);
  });

  it('finds the controller in the environment, and says when it is not there', async () => {
    const environment = { HOLDFAST_CONTROLLER: controller.address };
    assert.equal((await typed(['pause', 'op-1'], { environment })).code, 0);
    assert.deepEqual(controller.updated[0]?.change, { $case: 'paused', value: true });
    const { code, terminal } = await typed(['--controller', `${controller.address}x`, 'list']);
    assert.equal(code, 5);
    assert.match(
      terminal.printed.err,
      /The controller at unix:.* does not answer.*\[CONTROLLER_UNREACHABLE\]/,
    );
  });

  it('tells errors of the controller in a line, or as JSON', async () => {
    const { code, terminal } = await typed(to('show', 'b'));
    assert.equal(code, 3);
    assert.equal(terminal.printed.err, 'holdfast: There is no such backup. [BACKUP_NOT_FOUND]\n');
    const json = await typed(to('show', 'b', '--json'));
    assert.equal(json.code, 3);
    assert.deepEqual(JSON.parse(json.terminal.printed.err), {
      error: { reason: 'BACKUP_NOT_FOUND', message: 'There is no such backup.', metadata: {} },
    });
    assert.equal(json.terminal.printed.out, '');
  });
});

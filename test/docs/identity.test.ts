import assert from 'node:assert/strict';
import { mkdtempDisposable, readFile, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { execa } from 'execa';
import { startService, type Service } from '../harness/service.ts';
import { until } from '../lab/deadline.ts';
import { freePort } from '../lab/freePort.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');
const START_MS = 60_000;
const MASTER_KEY = { HOLDFAST_MASTER_KEY: '5a'.repeat(32) };

/**
 * docs/identity.md and docs/limits.md, run from top to bottom. The agent's libvirt is the one that libvirt has for tests, with
 * one domain.
 */
describe('docs/identity.md', function () {
  this.timeout(2 * START_MS);
  const stack = new AsyncDisposableStack();
  let directory: string;
  let blocks: readonly string[];
  const ports: Record<string, number> = {};

  before(async () => {
    directory = stack.use(await mkdtempDisposable(path.join(tmpdir(), 'holdfast-page-'))).path;
    for (const name of ['7600', '7601', '7680']) ports[name] = await freePort();
    blocks = [...(await shellBlocks('identity.md')), ...(await shellBlocks('limits.md'))];
  });
  after(() => stack.disposeAsync());

  const sh = (block: string, env: Readonly<Record<string, string>> = {}, reject = true) =>
    execa('bash', ['-euo', 'pipefail', '-c', withPorts(block)], {
      cwd: directory,
      env: {
        ...env,
        PATH: `${path.join(ROOT, 'cli/bin')}:${path.join(ROOT, 'node_modules/.bin')}:${process.env['PATH'] ?? ''}`,
      },
      timeout: START_MS,
      reject,
    });
  const withPorts = (text: string) => text.replace(/\b(76\d\d)\b/g, (name) => String(ports[name] ?? name));

  it('leads from nothing to a call, and to a renewal that nobody has to restart for', async () => {
    const [issue = '', call = '', other = '', renew = '', metrics = ''] = blocks;
    await sh(issue);
    assert.equal((await stat(path.join(directory, 'tls/admin/tls.key'))).mode & 0o777, 0o600);
    await startAgent();
    await startController();

    const called = await sh(`${call}\necho ==\n${other}`);
    assert.match(
      called.stdout,
      /Host h1 was added to zone home\.\s+HOST +ZONE[^]*h1 +home[^]*==\s*\{[^]*"home"/,
    );
    // What the page says of roles and exit codes.
    const env = { HOLDFAST_CONTROLLER: '127.0.0.1:7600', HOLDFAST_TLS_DIRECTORY: 'tls/night' };
    const refused = await sh('holdfast zone create away', portsIn(env), false);
    assert.deepEqual(
      [refused.exitCode, /\[PERMISSION_DENIED\]/.test(refused.stderr)],
      [10, true],
      refused.stderr,
    );
    const unnamed = await sh('holdfast host list', portsIn(env), false);
    assert.match(unnamed.stderr, /Name the zone.*\[PERMISSION_DENIED\]/);

    const before = await expiry(metrics);
    assert.match((await sh(renew)).stdout, /controller \(holdfast:\/\/controller\)/);
    await until('The renewed certificate is in use', START_MS, async () =>
      (await expiry(metrics)) > before ? true : undefined,
    );
    await sh('holdfast host show h1', portsIn({ ...env, HOLDFAST_TLS_DIRECTORY: 'tls/admin' }));
  });

  it('is right that nothing else is listened to without certificates', async () => {
    for (const program of ['controller', 'agent']) {
      const argv = [...argvOf(program, 'alone'), '--listen', '0.0.0.0:0'];
      const { exitCode, stderr } = await execa(process.execPath, argv, {
        ...{ env: MASTER_KEY, reject: false, timeout: START_MS },
      });
      assert.notEqual(exitCode, 0);
      assert.match(stderr, /can be reached from other machines/);
    }
  });

  /** When the controller's certificate ends, by its metrics, in seconds since 1970. */
  async function expiry(metrics: string): Promise<number> {
    const { stdout } = await sh(metrics);
    return Number(
      /^holdfast_certificate_expiry_timestamp_seconds\{certificate="own"\} (\S+)/m.exec(stdout)?.[1],
    );
  }

  function portsIn(env: Readonly<Record<string, string>>): Record<string, string> {
    return Object.fromEntries(Object.entries(env).map(([name, value]) => [name, withPorts(value)]));
  }

  async function startController(): Promise<Service> {
    const argv = [
      ...argvOf('controller'),
      ...[
        '--listen',
        `127.0.0.1:${ports['7600']}`,
        `unix://${directory}/c.sock`,
        '--tls-directory',
        'tls/controller',
      ],
      ...['--metrics-listen', `127.0.0.1:${ports['7680']}`],
    ].map((word) => (word.startsWith('tls/') ? path.join(directory, word) : word));
    return start('controller', 'c.sock', argv, MASTER_KEY);
  }

  async function startAgent(): Promise<Service> {
    const argv = [
      ...argvOf('agent'),
      ...['--listen', `127.0.0.1:${ports['7601']}`, `unix://${directory}/a.sock`],
      ...['--tls-directory', path.join(directory, 'tls/h1')],
    ];
    return start('agent', 'a.sock', argv, {});
  }

  async function start(name: string, socket: string, argv: readonly string[], env: Record<string, string>) {
    const address = { kind: 'unix', path: path.join(directory, socket) } as const;
    return stack.use(await startService({ name, directory: path.join(directory, name), address, argv, env }));
  }

  function argvOf(program: string, state = 'state'): string[] {
    const main = path.join(ROOT, program, 'src/main.ts');
    const common = [main, '--state-directory', path.join(directory, `${program}-${state}`)];
    if (program === 'controller') return common;
    const places = [
      '--runtime-directory',
      path.join(directory, 'r'),
      '--scratch-directory',
      path.join(directory, 'x'),
    ];
    return [...common, ...places, '--zone', 'home', '--host-name', 'h1', '--libvirt-uri', 'test:///default'];
  }
});

async function shellBlocks(page: string): Promise<string[]> {
  const text = await readFile(path.join(ROOT, 'docs', page), 'utf8');
  return [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
}

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { useHoldfast } from '../harness/fixture.ts';
import { busyGuest } from './support/guests.ts';

const ROOT = path.resolve(import.meta.dirname, '../..');

/** docs/grpc.md, run from top to bottom in one shell. grpcurl is not to be had everywhere; its twin stands in for it. */
describe('docs/grpc.md', () => {
  const fixture = useHoldfast({ guest: busyGuest, holdfast: { listen: ['127.0.0.1:0'] } });
  let blocks: readonly string[];

  before(async () => {
    const page = await readFile(path.join(ROOT, 'docs/grpc.md'), 'utf8');
    blocks = [...page.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
  });

  it('has each call for either tool', () => {
    const calls = (tool: string) =>
      blocks
        .filter((block) => block.includes(tool))
        .flatMap((block) => [...block.matchAll(/\b(?:holdfast|grpc)(?:\.\w+)+\/\w+/g)].map(([call]) => call));
    assert.deepEqual(calls('buf curl'), calls('grpcurl'));
    assert.ok(calls('buf curl').length > 10);
  });

  it('is right that a port of loopback is called like a socket', async () => {
    const port = portOf(await fixture.holdfast.controller.log());
    const call = blocks
      .flatMap((block) => block.split('\n'))
      .find((line) => line.startsWith('buf curl') && line.endsWith('ZoneService/ListZones'));
    const [buf = '', ...args] = (call ?? '')
      .replace('--unix-socket $CONTROLLER ', '')
      .replace('http://localhost/', `http://${port}/`)
      .split(' ');
    const { stdout } = await execa(path.join(ROOT, 'node_modules/.bin', buf), args, { timeout: 30_000 });
    assert.match(stdout, /"z1"/);
  });

  it('does what it says', async () => {
    const { guest, holdfast } = fixture;
    const given: Record<string, string> = {
      CONTROLLER: socketOf(holdfast.controller.address),
      AGENT: socketOf(holdfast.agent.address),
      ZONE: 'z1',
      DOMAIN: guest.name,
      REPOSITORY: holdfast.repository(),
      HEALTH_PROTO: path.join(ROOT, 'node_modules/grpc-health-check/proto/health/v1/health.proto'),
    };
    const runnable = blocks
      .filter((block) => !block.includes('grpcurl'))
      .map((block) => without(block, given));
    const last = runnable.pop() ?? '';
    const { stdout } = await execa('bash', ['-euo', 'pipefail', '-c', runnable.join('\necho ==\n')], {
      env: { ...given, PATH: `${path.join(ROOT, 'node_modules/.bin')}:${process.env['PATH'] ?? ''}` },
      timeout: 120_000,
    });
    const [
      ,
      listed = '',
      health = '',
      who = '',
      taken = '',
      watched = '',
      steered,
      ,
      started = '',
      attached = '',
    ] = stdout.split('==\n');
    assert.match(listed, /holdfast\.v1\.OperationService\/WatchOperation/);
    assert.equal([...health.matchAll(/"SERVING"/g)].length, 2);
    assert.match(who, /"z1"[^]*"host-1"[^]*"toolVersions"/);
    assert.match(taken, /"key": "nas\.backup\.compression\.enabled"[^}]*SETTING_SCOPE_REQUEST/);
    assert.match(watched, /"accepted"[^]*STAGE_PUBLISH[^]*"completed"[^]*"backups"/);
    assert.ok(steered !== undefined);
    assert.match(started, /"accepted"[^]*"stageStarted"[^]*"completed"/);
    assert.match(started, /"checked": true/);
    assert.match(attached, /"sequence": "5"[^]*"completed"[^]*"finished": true/);
    assert.doesNotMatch(
      attached,
      /"accepted"|"sequence": "4",\s*"time": "[^"]*",\s*"stage(?:Started|Finished)"/,
    );

    const refused = await execa('bash', ['-c', last], {
      env: { ...given, PATH: `${path.join(ROOT, 'node_modules/.bin')}:${process.env['PATH'] ?? ''}` },
      timeout: 60_000,
      reject: false,
      all: true,
    });
    assert.notEqual(refused.exitCode, 0);
    assert.match(refused.all, /"not_found"[^]*google\.rpc\.ErrorInfo/);
  });
});

/** Where the controller listens besides its socket, by its log. */
function portOf(log: string): string {
  const port = /"address":"(127\.0\.0\.1:\d+)"/.exec(log)?.[1];
  assert.ok(port, log);
  return port;
}

/** The block without what it would set and the test has set already. */
function without(block: string, given: Readonly<Record<string, string>>): string {
  return block
    .split('\n')
    .filter((line) => !Object.keys(given).some((name) => line.startsWith(`export ${name}=`)))
    .join('\n');
}

function socketOf(address: { readonly kind: string; readonly path?: string }): string {
  return address.path ?? '';
}

import assert from 'node:assert/strict';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { unary } from '@holdfast/common/call.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { serve } from '@holdfast/common/server.ts';
import { HostServiceService, type AddHostRequest } from '@holdfast/proto/holdfast/v1/host.ts';
import {
  RepositoryServiceService,
  type AddRepositoryRequest,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { ZoneServiceService } from '@holdfast/proto/holdfast/v1/zone.ts';
import { run } from '../run.ts';
import type { AgentOptions, ControllerOptions, LocalParts } from '../standalone/parts.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';
import { parseNamedPath } from './standalone.ts';

describe('standalone', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-standalone-'));
  });
  afterEach(() => rm(directory, { recursive: true, force: true }));

  it('starts both services, registers the machine, and stops them at a signal, more than once', async () => {
    const state = join(directory, 'state');
    for (let start = 1; start <= 2; start += 1) {
      const seen = parts({ known: start === 2 });
      const terminal = fakeTerminal();
      const ended = run(
        ['standalone', '--state-directory', state, '--zone', 'z', '--repository', `nas=${directory}`],
        { terminal, loadParts: () => Promise.resolve(seen.parts) },
      );
      while (terminal.printed.out === '' && terminal.printed.err === '') {
        await new Promise((resolve) => setImmediate(resolve));
      }
      terminal.interrupt('SIGTERM');
      assert.equal(await ended, 0, terminal.printed.err);
      assert.match(terminal.printed.out, /holdfast --controller unix:\S+controller\.sock list/);
      assert.match(terminal.printed.err, /go on/);
      assert.deepEqual(seen.hosts, [
        { zone: 'z', name: 'here', address: `unix://${state}/agent.sock`, labels: {} },
      ]);
      assert.deepEqual(
        seen.repositories.map(({ name, path }) => [name, path]),
        [['nas', directory]],
      );
      assert.deepEqual(seen.log, [
        'agent started',
        'controller started',
        'controller closed',
        'agent closed',
      ]);
      assert.equal((await stat(state)).mode & 0o777, 0o711);
    }
  });

  it('takes repositories as NAME=PATH', () => {
    assert.deepEqual(parseNamedPath('nas=/mnt/a=b'), { name: 'nas', path: '/mnt/a=b' });
    for (const text of ['nas', '=/mnt', 'nas='])
      assert.throws(() => parseNamedPath(text), { reason: 'USAGE' });
  });
});

/** Services that only remember; with `known` the controller has the zone, the host and the repository already. */
function parts({ known }: { known: boolean }): {
  parts: LocalParts;
  hosts: AddHostRequest[];
  repositories: AddRepositoryRequest[];
  log: string[];
} {
  const hosts: AddHostRequest[] = [];
  const repositories: AddRepositoryRequest[] = [];
  const log: string[] = [];
  const answer = <Request, Response>(
    reason: 'ZONE_EXISTS' | 'HOST_EXISTS' | 'REPOSITORY_EXISTS',
    response: Response,
    seen: Request[] = [],
  ): ReturnType<typeof unary<Request, Response>> =>
    unary<Request, Response>(silentLogger, (request) => {
      seen.push(request);
      return known ? Promise.reject(new HoldfastError(reason, 'known')) : Promise.resolve(response);
    });
  const refuse = unary(silentLogger, () => Promise.reject(new HoldfastError('INTERNAL', 'not scripted')));
  const zone = {
    createZone: answer('ZONE_EXISTS', { zone: undefined }),
    ...{ listZones: refuse, setSettings: refuse, getSettings: refuse },
  };
  const host = {
    addHost: answer('HOST_EXISTS', { host: undefined }, hosts),
    ...{ listHosts: refuse, getHost: refuse, removeHost: refuse },
  };
  const repository = {
    addRepository: answer('REPOSITORY_EXISTS', { repository: undefined }, repositories),
    listRepositories: unary(silentLogger, () => Promise.resolve({ repositories: [] })),
    ...{ getRepository: refuse, removeRepository: refuse, setRepositoryCredentials: refuse },
  };
  const startAgent = ({ listen }: AgentOptions): ReturnType<LocalParts['startAgent']> => {
    log.push('agent started');
    const close = (): Promise<void> => Promise.resolve(void log.push('agent closed'));
    return Promise.resolve({ addresses: listen, close });
  };
  const startController = async ({
    listen,
  }: ControllerOptions): ReturnType<LocalParts['startController']> => {
    const [address] = listen;
    assert.ok(address);
    const server = await serve(
      address,
      [
        { name: 'holdfast.v1.ZoneService', definition: ZoneServiceService, implementation: zone },
        { name: 'holdfast.v1.HostService', definition: HostServiceService, implementation: host },
        {
          name: 'holdfast.v1.RepositoryService',
          definition: RepositoryServiceService,
          implementation: repository,
        },
      ],
      silentLogger,
    );
    log.push('controller started');
    return {
      addresses: [server.address],
      close: async () => {
        await server.close(0);
        log.push('controller closed');
      },
    };
  };
  return {
    ...{ hosts, repositories, log },
    parts: {
      createLogger: () => silentLogger,
      startAgent,
      startController,
      createMasterKey: () => Promise.reject(new HoldfastError('TARGET_EXISTS', 'there already')),
      copySqlite: () => undefined,
      readMasterKey: () => Promise.resolve(new Secret('00')),
    },
  };
}

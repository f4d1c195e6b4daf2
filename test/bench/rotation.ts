import { randomUUID } from 'node:crypto';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { generateX25519Identity, identityToRecipient } from 'age-encryption';
import pMap from 'p-map';
import { openRepositories } from '@holdfast/agent/repository/repositories.ts';
import { findKeyFiles, writeKeyFiles } from '@holdfast/agent/repository/keyFileCalls.ts';
import { unary } from '@holdfast/common/call.ts';
import { silentLogger } from '@holdfast/common/logger.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { serve } from '@holdfast/common/server.ts';
import { startController } from '@holdfast/controller/controller.ts';
import { encryptTo, encryptUnder, keyIdOf } from '@holdfast/controller/keys/age.ts';
import {
  AgentServiceService,
  type FindKeyFilesRequest,
  type RepositoryRef,
  type WriteKeyFilesRequest,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { AddRepositoryRequest } from '@holdfast/proto/holdfast/v1/repository.ts';
import { connect } from '../harness/client.ts';

const PASSPHRASE = new Secret('of the bench');

/** What a rotation of the keys of so many backups, in one local repository, took. */
export interface RotationFigures {
  readonly backups: number;
  readonly seconds: number;
}

/** A real controller and an agent's real handling of key files; the images are empty files, which nobody touches. */
export async function measureRotation(backups: number): Promise<RotationFigures> {
  const directory = await mkdtemp('/var/tmp/holdfast-rotation-');
  const nas = path.join(directory, 'nas');
  await mkdir(path.join(nas, 'zone-keys'), { recursive: true });
  const repositories = openRepositories(path.join(directory, 'mounts'), silentLogger);
  const repositoryOf = ({
    repository,
  }: {
    readonly repository: RepositoryRef | undefined;
  }): RepositoryRef => {
    if (repository === undefined) throw new Error('no repository was named');
    return repository;
  };
  const agent = {
    getHost: unary(silentLogger, () =>
      Promise.resolve({ name: 'h', zone: 'z', toolVersions: {}, features: [], domains: [] }),
    ),
    prepareRepository: unary(silentLogger, (request: { readonly repository: RepositoryRef | undefined }) =>
      repositories.useAfresh(repositoryOf(request), (repository) => repository.prepare()),
    ),
    findKeyFiles: unary(silentLogger, (request: FindKeyFilesRequest) =>
      repositories.use(repositoryOf(request), (repository) => findKeyFiles(repository, request)),
    ),
    writeKeyFiles: unary(silentLogger, (request: WriteKeyFilesRequest) =>
      repositories.use(repositoryOf(request), (repository) => writeKeyFiles(repository, request)),
    ),
  };
  const agentPath = path.join(directory, 'agent.sock');
  const name = 'holdfast.agent.v1.AgentService';
  const server = await serve(
    { kind: 'unix', path: agentPath },
    [{ name, definition: AgentServiceService, implementation: agent }],
    silentLogger,
  );
  const address = { kind: 'unix', path: path.join(directory, 'controller.sock') } as const;
  const state = path.join(directory, 'state');
  const controller = await startController({
    listen: [address],
    state: { kind: 'sqlite', directory: state },
    masterKey: new Secret('5a'.repeat(32)),
    logger: silentLogger,
  });
  const client = connect(address);
  try {
    const { zones, hosts, keys } = client;
    await client.call(zones.createZone.bind(zones), { name: 'z' });
    await client.call(hosts.addHost.bind(hosts), {
      ...{ zone: 'z', name: '', address: `unix:${agentPath}`, labels: {} },
    });
    const repository = AddRepositoryRequest.fromPartial({ zone: 'z', name: 'nas', type: 1, path: nas });
    await client.call(client.repositories.addRepository.bind(client.repositories), repository);
    const old = await makeBackups(nas, state, backups);
    await client.call(keys.importKeys.bind(keys), {
      ...{ zone: 'z', repository: 'nas', passphrase: PASSPHRASE.reveal(), requestPassphrase: false },
    });
    const started = performance.now();
    const { operation } = await client.call(keys.rotateKey.bind(keys), { zone: 'z', requestId: '' });
    const { operation: ended } = await client.follow(operation?.id ?? '');
    const seconds = (performance.now() - started) / 1_000;
    const result = ended.result?.result;
    if (result?.$case !== 'keys' || result.value.backupCount !== BigInt(backups))
      throw new Error(`the rotation ended otherwise: ${JSON.stringify(ended.error)}`);
    const left = (await readdir(nas, { recursive: true })).filter((file) => file.includes(old));
    if (left.length > 0) throw new Error(`${left.length} files of the old key are left`);
    return { backups, seconds };
  } finally {
    client[Symbol.dispose]();
    await controller.close();
    await server.close(0);
    await repositories.close();
    await rm(directory, { recursive: true });
  }
}

/** Enters backups in the catalogue and the repository. @returns the id of the zone's key, which is in the repository */
async function makeBackups(nas: string, state: string, count: number): Promise<string> {
  const zoneKey = await generateX25519Identity();
  const recipient = await identityToRecipient(zoneKey);
  const keyId = keyIdOf(recipient);
  const file = await encryptUnder(PASSPHRASE, new Secret(`${zoneKey}\n`), 10);
  await writeFile(path.join(nas, 'zone-keys', `${keyId}.age`), file);
  const made = await pMap(
    Array.from({ length: count }),
    async () => {
      const id = randomUUID();
      const folder = `${randomUUID()}/20260101T000000Z-${id}`;
      await mkdir(path.join(nas, folder), { recursive: true });
      const wrapped = await encryptTo([recipient], new Secret(await generateX25519Identity()));
      await writeFile(path.join(nas, folder, `key.${keyId}.age`), wrapped);
      await writeFile(path.join(nas, folder, 'vda.qcow2'), '');
      return { id, folder, wrapped };
    },
    { concurrency: 8 },
  );
  using database = new DatabaseSync(path.join(state, 'controller.sqlite'), { timeout: 30_000 });
  database.exec('begin immediate');
  database
    .prepare(
      `insert into keys (id, zone, origin, state, recipient, identity_sealed, passphrase_sealed, generation, create_time)
       values (?, 'z', 'zone', 'missing', '', x'', x'', 1, '2026-01-01T00:00:00.000Z')`,
    )
    .run(keyId);
  const insert = database.prepare(
    `insert into backups (id, zone, host, repository, path, domain_uuid, domain_name, snapshot_time, virtual_size_bytes,
       data_bytes, stored_bytes, transferred_bytes, compressed, encrypted, quiesced, key_id, wrapped_key, manifest_message,
       manifest_sha256)
     values (?, 'z', 'h', 'nas', ?, '', '', '2026-01-01T00:00:00.000Z', 0, 0, 0, 0, 0, 1, 0, ?, ?, x'', '')`,
  );
  for (const { id, folder, wrapped } of made) insert.run(id, folder, keyId, wrapped);
  database.exec('commit');
  return keyId;
}

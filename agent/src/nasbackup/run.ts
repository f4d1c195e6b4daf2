import { randomUUID } from 'node:crypto';
import { parseAddress } from '@holdfast/common/address.ts';
import { callUnary, connectTo } from '@holdfast/common/client.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { AgentServiceClient, DeleteBackupRequest } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { readArguments, UsageError, type BackupRequest, type NasStorage } from './arguments.ts';
import { runJob } from './job.ts';
import { readPassphrase } from './passphrase.ts';
import { backupReport, ExitCode, statsReport, USAGE } from './report.ts';
import { repositoryOf } from './repository.ts';

/** What the program works with. */
export interface Surroundings {
  readonly agentAddress: string;
  /** The algorithm of -c: zstd or zlib. */
  readonly compression: string;
  /** Aborts when the program is asked to end: the backup is cancelled. */
  readonly signal: AbortSignal;
  /** Standard output. */
  readonly print: (text: string) => void;
  /** Standard error. */
  readonly warn: (text: string) => void;
}

/** The agent of this host and what it must be told with every call. */
interface Agent {
  readonly client: AgentServiceClient;
  readonly zone: string;
  readonly correlationId: string;
}

/** Removing a backup and asking a storage for its space may both have to wait for a mount. */
const UNARY_DEADLINE_MS = 600_000;

/** Does what the arguments ask for, and returns the exit code. */
export async function run(args: readonly string[], surroundings: Surroundings): Promise<number> {
  const { print } = surroundings;
  try {
    const request = readArguments(args);
    switch (request.operation) {
      case 'help':
        print(USAGE);
        return ExitCode.FAILURE;
      case 'backup':
        return await backUp(request, surroundings);
      case 'delete':
        return await withAgent(surroundings, (agent) => remove(agent, request, print));
      case 'stats':
        return await withAgent(surroundings, (agent) => tellSpace(agent, request.storage, print));
    }
  } catch (error) {
    if (error instanceof UsageError) print(error.message);
    else if (error instanceof HoldfastError) print(inWords(error));
    else throw error;
    return ExitCode.FAILURE;
  }
}

async function backUp(request: BackupRequest, surroundings: Surroundings): Promise<number> {
  const { compression, signal, print, warn } = surroundings;
  // Before anything is asked of the agent: a mistake in it must not be found in the middle of a backup.
  const passphrase = request.passphraseFile === '' ? '' : await readPassphrase(request.passphraseFile);
  return withAgent(surroundings, async ({ client, zone, correlationId }) => {
    const end = await runJob(
      client,
      {
        header: { jobId: randomUUID(), zone, fencingEpoch: 0n, correlationId, host: '' },
        backupId: randomUUID(),
        domain: request.domain,
        repository: repositoryOf(request.storage),
        options: {
          compression: request.compress ? compression : '',
          bandwidthLimitMibps: BigInt(request.bandwidthMibps),
          integrityCheck: request.verify,
          integrityLevel: 'metadata',
          digests: 'none',
          quiesce: request.quiesce ? 'best-effort' : 'off',
          allowPlaintext: false,
          transport: '',
          bandwidthEnforce: '',
          repositoryReservePercent: 0,
          bandwidthShareBytesPerSecond: 0n,
        },
        key: undefined,
        cloudstack: { folder: request.folder },
        passphrase,
        volumes: request.volumes,
        limits: undefined,
        storedRatio: 0,
      },
      signal,
    );
    for (const { message } of end.warnings) warn(message);
    if (!(end.outcome instanceof HoldfastError)) {
      print(backupReport(request, end.outcome));
      return ExitCode.SUCCESS;
    }
    if (end.outcome.reason === 'CHECK_FAILED') print('Backup verification failed.');
    print(inWords(end.outcome));
    const leftovers = end.warnings.filter(({ reason }) => reason === 'LEFTOVERS');
    if (leftovers.length === 0) return ExitCode.FAILURE;
    print(['Backup cleanup failed', ...leftovers.map(({ message }) => message)].join('\n'));
    return ExitCode.CLEANUP_FAILED;
  });
}

async function remove(
  { client, zone, correlationId }: Agent,
  { storage, folder }: { readonly storage: NasStorage; readonly folder: string },
  print: Surroundings['print'],
): Promise<number> {
  const repository = repositoryOf(storage);
  await callUnary(
    client.deleteBackup.bind(client),
    DeleteBackupRequest.fromPartial({ zone, repository, cloudstack: { folder } }),
    { correlationId, deadlineMs: UNARY_DEADLINE_MS },
  );
  print(`removed directory '${folder}'`);
  return ExitCode.SUCCESS;
}

async function tellSpace(
  { client, zone, correlationId }: Agent,
  storage: NasStorage,
  print: Surroundings['print'],
): Promise<number> {
  const space = await callUnary(
    client.getRepositoryStats.bind(client),
    { zone, repository: repositoryOf(storage) },
    { correlationId, deadlineMs: UNARY_DEADLINE_MS },
  );
  print(statsReport(space));
  return ExitCode.SUCCESS;
}

async function withAgent(
  { agentAddress }: Surroundings,
  use: (agent: Agent) => Promise<number>,
): Promise<number> {
  const client = connectTo(AgentServiceClient, parseAddress(agentAddress));
  const correlationId = randomUUID();
  try {
    const { zone } = await callUnary(
      client.getHost.bind(client),
      { domain: '', withoutDomains: true },
      { correlationId },
    ).catch((error: unknown) => {
      if (!(error instanceof HoldfastError) || error.reason !== 'AGENT_UNREACHABLE') throw error;
      throw new HoldfastError(
        'AGENT_UNREACHABLE',
        `The agent of this host does not answer at ${agentAddress}: ${error.message} Is holdfast-agent running? ` +
          'Another address goes into HOLDFAST_AGENT.',
        { cause: error },
      );
    });
    return await use({ client, zone, correlationId });
  } finally {
    client.close();
  }
}

function inWords(error: HoldfastError): string {
  return `${error.message} [${error.reason}]`;
}

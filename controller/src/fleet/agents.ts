import { parseAddress } from '@holdfast/common/address.ts';
import { callUnary, checkHealth, connectTo, correlated } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import type { Certificates } from '@holdfast/common/identity/certificates.ts';
import {
  AgentServiceClient,
  type DeleteBackupRequest,
  type DeleteBackupResponse,
  type FindKeyFilesRequest,
  type FindKeyFilesResponse,
  type FindLeftoversRequest,
  type FindLeftoversResponse,
  type GetHostResponse,
  type GetRepositoryStatsRequest,
  type GetRepositoryStatsResponse,
  type ListJobsResponse,
  type PrepareRepositoryRequest,
  type PrepareRepositoryResponse,
  type RemoveLeftoversRequest,
  type RemoveLeftoversResponse,
  type ScanRepositoryRequest,
  type ScanRepositoryResponse,
  type WriteKeyFilesRequest,
  type WriteKeyFilesResponse,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';

const SECOND = 1_000;
const MINUTE = 60 * SECOND;

/** An agent that is asked a question answers within this, or counts as unreachable. libvirt is behind it. */
const ASK_DEADLINE_MS = 30 * SECOND;
/** For an agent to say that it is there. */
const BEAT_DEADLINE_MS = 5 * SECOND;
/** Longer than an agent waits for a NAS, so that its own words arrive. */
const REPOSITORY_DEADLINE_MS = 3 * MINUTE;
/** All domains and their storage are asked. */
const FIND_DEADLINE_MS = 2 * MINUTE;
/** Longer than an agent gives a NAS for a thousand small files. */
const KEY_FILES_DEADLINE_MS = 12 * MINUTE;
/** Long, since unlinking large files on a NAS takes its time; an agent that is gone is noticed by keepalive. */
const DELETE_DEADLINE_MS = 30 * MINUTE;

/** A host whose agent is to be called. */
export interface AgentPlace {
  readonly name: string;
  readonly zone: string;
  readonly address: string;
}

/** The channels to agents, one for each address. Every call throws HoldfastError AGENT_UNREACHABLE that names the host. */
export interface Agents {
  /** The client, for streams. */
  client(place: AgentPlace): AgentServiceClient;
  /** Waits until the agent can be called. */
  ready(place: AgentPlace, deadlineMs: number): Promise<void>;
  /** Who the agent is, with one domain or, without its name, all. */
  getHost(place: AgentPlace, domain: string, correlationId: string): Promise<GetHostResponse>;
  /** Who the agent is and what its host can do, without the domains. */
  identify(place: AgentPlace, correlationId: string): Promise<GetHostResponse>;
  /** Returns when the agent serves. libvirt is not asked. */
  beat(place: AgentPlace): Promise<void>;
  prepareRepository(
    place: AgentPlace,
    request: PrepareRepositoryRequest,
    correlationId: string,
  ): Promise<PrepareRepositoryResponse>;
  getRepositoryStats(
    place: AgentPlace,
    request: GetRepositoryStatsRequest,
    correlationId: string,
  ): Promise<GetRepositoryStatsResponse>;
  deleteBackup(
    place: AgentPlace,
    request: DeleteBackupRequest,
    correlationId: string,
  ): Promise<DeleteBackupResponse>;
  /** What lies in a repository, batch by batch. Ends with an error when the signal aborts. */
  scanRepository(
    place: AgentPlace,
    request: ScanRepositoryRequest,
    correlationId: string,
    signal: AbortSignal,
  ): AsyncGenerator<ScanRepositoryResponse, void, undefined>;
  findKeyFiles(
    place: AgentPlace,
    request: FindKeyFilesRequest,
    correlationId: string,
  ): Promise<FindKeyFilesResponse>;
  writeKeyFiles(
    place: AgentPlace,
    request: WriteKeyFilesRequest,
    correlationId: string,
  ): Promise<WriteKeyFilesResponse>;
  listJobs(place: AgentPlace, correlationId: string): Promise<ListJobsResponse>;
  findLeftovers(
    place: AgentPlace,
    request: FindLeftoversRequest,
    correlationId: string,
  ): Promise<FindLeftoversResponse>;
  removeLeftovers(
    place: AgentPlace,
    request: RemoveLeftoversRequest,
    correlationId: string,
  ): Promise<RemoveLeftoversResponse>;
  /** Closes the channel to an address; the next call opens another. */
  forget(address: string): void;
  close(): void;
}

/** @param certificates for hosts whose address is a port: the agent there must be that of the host, and is shown who we are */
export function createAgents(certificates?: Certificates): Agents {
  // By address, then by name: one that was opened before the name was known proves less.
  const clients = new Map<string, Map<string, AgentServiceClient>>();
  const client = ({ name, zone, address }: AgentPlace): AgentServiceClient => {
    const there = clients.get(address) ?? new Map<string, AgentServiceClient>();
    clients.set(address, there);
    let found = there.get(name);
    if (found === undefined) {
      // Until its name is known, a host goes by its address.
      const expected = { role: 'agent' as const, zone, host: name === address ? undefined : name };
      const tls = certificates && { certificates, expected };
      found = connectTo(AgentServiceClient, parseAddress(address), tls);
      there.set(name, found);
    }
    return found;
  };
  const forget = (address: string): void => {
    for (const each of clients.get(address)?.values() ?? []) each.close();
    clients.delete(address);
  };
  return {
    client,
    ready: (place, deadlineMs) =>
      new Promise((resolve, reject) => {
        client(place).waitForReady(new Date(Date.now() + deadlineMs), (error) => {
          if (error === undefined) resolve();
          else reject(unreachable(place, error));
        });
      }),
    getHost: async (place, domain, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: ASK_DEADLINE_MS };
      return await naming(
        place,
        callUnary(agent.getHost.bind(agent), { domain, withoutDomains: false }, options),
      );
    },
    identify: async (place, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: ASK_DEADLINE_MS };
      return await naming(
        place,
        callUnary(agent.getHost.bind(agent), { domain: '', withoutDomains: true }, options),
      );
    },
    beat: (place) => naming(place, checkHealth(client(place), BEAT_DEADLINE_MS)),
    prepareRepository: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: REPOSITORY_DEADLINE_MS };
      return await naming(place, callUnary(agent.prepareRepository.bind(agent), request, options));
    },
    getRepositoryStats: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: REPOSITORY_DEADLINE_MS };
      return await naming(place, callUnary(agent.getRepositoryStats.bind(agent), request, options));
    },
    deleteBackup: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: DELETE_DEADLINE_MS };
      return await naming(place, callUnary(agent.deleteBackup.bind(agent), request, options));
    },
    scanRepository: async function* (place, request, correlationId, signal) {
      const stream = client(place).scanRepository(request, correlated(correlationId));
      const cancel = (): void => {
        stream.cancel();
      };
      signal.addEventListener('abort', cancel, { once: true });
      // One that is cancelled after its reader has gone says so, and nobody else listens.
      stream.on('error', () => undefined);
      try {
        yield* stream as AsyncIterable<ScanRepositoryResponse>;
      } catch (error) {
        throw named(place, fromServiceError(error));
      } finally {
        signal.removeEventListener('abort', cancel);
        cancel();
      }
    },
    findKeyFiles: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: KEY_FILES_DEADLINE_MS };
      return await naming(place, callUnary(agent.findKeyFiles.bind(agent), request, options));
    },
    writeKeyFiles: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: KEY_FILES_DEADLINE_MS };
      return await naming(place, callUnary(agent.writeKeyFiles.bind(agent), request, options));
    },
    listJobs: async (place, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: ASK_DEADLINE_MS };
      return await naming(place, callUnary(agent.listJobs.bind(agent), {}, options));
    },
    findLeftovers: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: FIND_DEADLINE_MS };
      return await naming(place, callUnary(agent.findLeftovers.bind(agent), request, options));
    },
    removeLeftovers: async (place, request, correlationId) => {
      const agent = client(place);
      const options = { correlationId, deadlineMs: DELETE_DEADLINE_MS };
      return await naming(place, callUnary(agent.removeLeftovers.bind(agent), request, options));
    },
    forget,
    close: () => {
      for (const address of [...clients.keys()]) forget(address);
    },
  };
}

/** gRPC's own words for a dead peer do not say which host it was. */
async function naming<Response>(place: AgentPlace, answer: Promise<Response>): Promise<Response> {
  try {
    return await answer;
  } catch (error) {
    throw named(place, error);
  }
}

function named(place: AgentPlace, error: unknown): unknown {
  return error instanceof HoldfastError && error.reason === 'AGENT_UNREACHABLE'
    ? unreachable(place, error)
    : error;
}

function unreachable(place: AgentPlace, cause: Error): HoldfastError {
  return new HoldfastError(
    'AGENT_UNREACHABLE',
    `The agent of host ${place.name} at ${place.address} does not answer: ${cause.message}`,
    { metadata: { host: place.name }, cause },
  );
}

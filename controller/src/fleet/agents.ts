import { connectivityState } from '@grpc/grpc-js';
import { parseAddress } from '@holdfast/common/address.ts';
import { callUnary, checkHealth, connectTo, correlated, type UnaryMethod } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import type { Certificates } from '@holdfast/common/identity/certificates.ts';
import {
  AgentServiceClient,
  type CancelDeletionRequest,
  type CancelDeletionResponse,
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

/** Longer than the longest pause between two tries of a channel to reach its agent. */
const REACH_DEADLINE_MS = 3 * SECOND;
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
/** An agent looks into its memory for it. */
const CANCEL_DEADLINE_MS = 3 * SECOND;
/** Longer than any agent needs to give a deletion up; one that is gone is noticed by keepalive. */
const DELETE_DEADLINE_MS = 24 * 60 * MINUTE;
/** Long, since unlinking large files on a NAS takes its time. */
const REMOVE_DEADLINE_MS = 30 * MINUTE;

/** A host whose agent is to be called. */
export interface AgentPlace {
  readonly name: string;
  readonly zone: string;
  readonly address: string;
}

/** A call to an agent, with a deadline of its own. */
export type Ask<Request, Response> = (
  place: AgentPlace,
  request: Request,
  correlationId: string,
) => Promise<Response>;

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
  readonly prepareRepository: Ask<PrepareRepositoryRequest, PrepareRepositoryResponse>;
  readonly getRepositoryStats: Ask<GetRepositoryStatsRequest, GetRepositoryStatsResponse>;
  readonly cancelDeletion: Ask<CancelDeletionRequest, CancelDeletionResponse>;
  readonly deleteBackup: Ask<DeleteBackupRequest, DeleteBackupResponse>;
  /** What lies in a repository, batch by batch. Ends with an error when the signal aborts. */
  scanRepository(
    place: AgentPlace,
    request: ScanRepositoryRequest,
    correlationId: string,
    signal: AbortSignal,
  ): AsyncGenerator<ScanRepositoryResponse, void, undefined>;
  readonly findKeyFiles: Ask<FindKeyFilesRequest, FindKeyFilesResponse>;
  readonly writeKeyFiles: Ask<WriteKeyFilesRequest, WriteKeyFilesResponse>;
  listJobs(place: AgentPlace, correlationId: string): Promise<ListJobsResponse>;
  readonly findLeftovers: Ask<FindLeftoversRequest, FindLeftoversResponse>;
  readonly removeLeftovers: Ask<RemoveLeftoversRequest, RemoveLeftoversResponse>;
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
  const ready: Agents['ready'] = (place, deadlineMs) =>
    new Promise((resolve, reject) => {
      client(place).waitForReady(new Date(Date.now() + deadlineMs), (error) => {
        if (error === undefined) resolve();
        else reject(unreachable(place, error));
      });
    });
  const asking =
    <Request, Response>(
      method: (agent: AgentServiceClient) => UnaryMethod<Request, Response>,
      deadlineMs: number,
    ): Ask<Request, Response> =>
    async (place, request, correlationId) => {
      // A channel that has failed fails all calls until its next try, though the agent may be back: that try is waited for.
      if (client(place).getChannel().getConnectivityState(true) === connectivityState.TRANSIENT_FAILURE)
        await ready(place, REACH_DEADLINE_MS).catch(() => undefined);
      return await naming(place, callUnary(method(client(place)), request, { correlationId, deadlineMs }));
    };
  const getHost = asking((agent) => agent.getHost.bind(agent), ASK_DEADLINE_MS);
  const listJobs = asking((agent) => agent.listJobs.bind(agent), ASK_DEADLINE_MS);
  return {
    client,
    ready,
    getHost: (place, domain, correlationId) =>
      getHost(place, { domain, withoutDomains: false }, correlationId),
    identify: (place, correlationId) => getHost(place, { domain: '', withoutDomains: true }, correlationId),
    beat: (place) => naming(place, checkHealth(client(place), BEAT_DEADLINE_MS)),
    prepareRepository: asking((agent) => agent.prepareRepository.bind(agent), REPOSITORY_DEADLINE_MS),
    getRepositoryStats: asking((agent) => agent.getRepositoryStats.bind(agent), REPOSITORY_DEADLINE_MS),
    cancelDeletion: asking((agent) => agent.cancelDeletion.bind(agent), CANCEL_DEADLINE_MS),
    deleteBackup: asking((agent) => agent.deleteBackup.bind(agent), DELETE_DEADLINE_MS),
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
    findKeyFiles: asking((agent) => agent.findKeyFiles.bind(agent), KEY_FILES_DEADLINE_MS),
    writeKeyFiles: asking((agent) => agent.writeKeyFiles.bind(agent), KEY_FILES_DEADLINE_MS),
    listJobs: (place, correlationId) => listJobs(place, {}, correlationId),
    findLeftovers: asking((agent) => agent.findLeftovers.bind(agent), FIND_DEADLINE_MS),
    removeLeftovers: asking((agent) => agent.removeLeftovers.bind(agent), REMOVE_DEADLINE_MS),
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

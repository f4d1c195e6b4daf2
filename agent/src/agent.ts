import { chmod, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Address } from '@holdfast/common/address.ts';
import { DEFAULT_FRONT, openFront, type FrontOptions } from '@holdfast/common/front.ts';
import type { Logger, LoggerOptions } from '@holdfast/common/logger.ts';
import type { RunningServer } from '@holdfast/common/server.ts';
import { AgentServiceService } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { agentAccess } from './api/access.ts';
import { agentService } from './api/service.ts';
import { epochs } from './jobs/epochs.ts';
import { jobsOf } from './jobs/jobs.ts';
import { jobRoots } from './jobs/spec.ts';
import { leftoversOf } from './leftovers/answer.ts';
import { virshAt } from './libvirt/virsh.ts';
import { unmountLeft } from './mount/unmount.ts';
import { openRepositories } from './repository/repositories.ts';

const RECOVER_EVERY_MS = 60_000;

export interface AgentOptions {
  /** One or more unix sockets or ports; without certificates, ports of loopback. */
  readonly listen: readonly Address[];
  /** Certificates, limits and metrics; without it, only this host can call. */
  readonly front?: FrontOptions;
  /** The zone that this host belongs to. */
  readonly zone: string;
  readonly hostName: string;
  /** Such as qemu:///system. */
  readonly libvirtUri: string;
  /** For the jobs' journals, on local disk. */
  readonly stateDirectory: string;
  /** For sockets and pipes, on tmpfs; short, since a socket's path has at most 107 bytes. */
  readonly runtimeDirectory: string;
  /** For what guests overwrite while they are backed up, on local disk. */
  readonly scratchDirectory: string;
  readonly logger: Logger;
  readonly logLevel: LoggerOptions['level'];
}

export interface RunningAgent {
  /** Where it listens, with the real port where 0 was asked for. */
  readonly addresses: readonly Address[];
  /** Stops serving. Running jobs go on in their own processes. */
  close(): Promise<void>;
}

/**
 * Starts the agent: finds what jobs a killed host or process left, undoes it, then serves.
 *
 * @throws HoldfastError IN_USE, INVALID_REQUEST for an address that other machines could reach without certificates,
 *   CERTIFICATE_UNUSABLE
 */
export async function startAgent(options: AgentOptions): Promise<RunningAgent> {
  const { logger, zone, hostName } = options;
  const front = await openFront(options.front ?? DEFAULT_FRONT, logger);
  // Closed by itself: its parents may be those of the directories below, which are not.
  await mkdir(options.stateDirectory, { recursive: true });
  await chmod(options.stateDirectory, 0o700);
  // The users of the domains' QEMUs pass through these two; what lies in them is closed to them, or theirs.
  for (const directory of [
    options.runtimeDirectory,
    join(options.runtimeDirectory, 'nbd'),
    options.scratchDirectory,
  ]) {
    await mkdir(directory, { recursive: true });
    await chmod(directory, 0o711);
  }
  await mkdir(join(options.runtimeDirectory, 'jobs'), { recursive: true, mode: 0o700 });

  const mountsDirectory = join(options.runtimeDirectory, 'mounts');
  await mkdir(mountsDirectory, { recursive: true, mode: 0o700 });
  const keysDirectory = join(options.runtimeDirectory, 'keys');
  // An agent that was killed may have left one in it.
  await rm(keysDirectory, { recursive: true, force: true });
  await mkdir(keysDirectory, { mode: 0o700 });

  const virsh = virshAt(options.libvirtUri, logger);
  const repositories = openRepositories(mountsDirectory, logger);
  const jobs = jobsOf({ ...options, mountsDirectory });
  const cleanUp = async (signal: AbortSignal): Promise<void> => {
    await jobs.recover();
    for (const problem of await unmountLeft(mountsDirectory))
      logger.warn('what a killed process had mounted', { problem });
    // What could not be undone while libvirt or a NAS was away can be later.
    while (!signal.aborted) {
      await sleep(RECOVER_EVERY_MS, undefined, { signal, ref: false }).catch(() => undefined);
      await jobs.recover();
    }
  };
  const closing = new AbortController();
  // Not waited for: a NAS that hangs must not keep the agent from serving the others.
  void cleanUp(closing.signal).catch((error: unknown) => {
    logger.error('could not look for what killed processes left', { error });
  });

  const { runtimeDirectory } = options;
  const roots = jobRoots(options);
  const leftovers = leftoversOf({
    ...{ hostName, jobs, virsh, repositories },
    ...{ roots, runtimeDirectory, mountsDirectory, keysDirectory },
  });
  const implementation = agentService({
    zone,
    hostName,
    jobs,
    virsh,
    repositories,
    epochs: epochs(jobs.root),
    stopping: closing.signal,
    leftovers,
    logger,
  });
  const name = 'holdfast.agent.v1.AgentService';
  const close = async (servers: readonly RunningServer[]): Promise<void> => {
    for (const server of servers) server.retire();
    closing.abort();
    await Promise.all(servers.map((server) => server.close()));
    await repositories.close();
    await front.close();
  };
  try {
    const services = [{ name, definition: AgentServiceService, implementation }];
    const servers = await front.serve(options.listen, services, agentAccess(zone));
    return { addresses: servers.map((server) => server.address), close: () => close(servers) };
  } catch (error) {
    await close([]);
    throw error;
  }
}

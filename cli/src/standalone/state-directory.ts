import { chmod, mkdir } from 'node:fs/promises';
import { join } from 'node:path';

/** Where the services of one machine keep what they know. */
export interface StateDirectory {
  readonly agent: string;
  readonly controller: string;
  readonly runtime: string;
  readonly scratch: string;
  readonly masterKeyFile: string;
  readonly agentSocket: string;
  readonly controllerSocket: string;
}

/**
 * Makes the directory. The users of the domains' QEMUs pass through it to sockets and scratch space, which the agent
 * makes; all else in it is closed to them.
 */
export async function openStateDirectory(path: string): Promise<StateDirectory> {
  const layout = {
    agent: join(path, 'agent'),
    controller: join(path, 'controller'),
    runtime: join(path, 'run'),
    scratch: join(path, 'scratch'),
    masterKeyFile: join(path, 'master.key'),
    agentSocket: join(path, 'agent.sock'),
    controllerSocket: join(path, 'controller.sock'),
  };
  await mkdir(path, { recursive: true });
  // It may have been there with other permissions, and the umask does not matter to chmod.
  await chmod(path, 0o711);
  return layout;
}

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

/** Makes the directory, for its owner only. */
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
  for (const directory of [path, layout.agent, layout.controller, layout.runtime, layout.scratch]) {
    await mkdir(directory, { recursive: true, mode: 0o700 });
  }
  // It may have been there with wider permissions, and the umask does not matter to chmod.
  await chmod(path, 0o700);
  return layout;
}

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { Client, credentials } from '@grpc/grpc-js';
import { execa } from 'execa';
import { grpcTarget, type Address } from '@holdfast/common/address.ts';
import type { Host } from '../lab/host.ts';

/** A controller or an agent: a process of its own that can be killed and started again on the same state. */
export interface Service extends AsyncDisposable {
  readonly name: string;
  readonly address: Address;
  /** Its state and sockets. */
  readonly directory: string;
  /** 0 while it does not run. */
  pid(): number;
  /** Ends the process and waits for its end. Default SIGKILL. */
  kill(signal?: 'SIGKILL' | 'SIGTERM'): Promise<void>;
  /** Starts it (again) and waits until it listens; throws with its log when it does not within 30 s. */
  start(): Promise<void>;
  /** All that it has logged since its first start: JSON lines. */
  log(): Promise<string>;
}

export interface ServiceOptions {
  readonly name: string;
  readonly directory: string;
  readonly address: Address;
  /** The program and its arguments, for node. */
  readonly argv: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** The lab in whose namespaces it runs; left out, it runs outside of any. */
  readonly inside?: Host | undefined;
}

const START_MILLISECONDS = 30_000;

/** Starts a service. It ends by `kill`, by disposal or with this process. */
export async function startService(options: ServiceOptions): Promise<Service> {
  const { name, directory, address } = options;
  const logFile =
    options.inside === undefined ? `${directory}.log` : `${options.inside.directory}/log/${name}.log`;
  const log = () => readFile(logFile, 'utf8').catch(() => '');
  let running: { readonly pid: number; readonly ended: Promise<unknown> } | undefined;

  const start = async (): Promise<void> => {
    const spawned =
      options.inside === undefined
        ? spawnOutside(options, logFile)
        : await options.inside.spawn(name, [process.execPath, ...options.argv], options.env);
    const { pid } = spawned;
    const ended = spawned.ended.finally(() => (running = undefined));
    running = { pid, ended };
    try {
      await Promise.race([
        listening(address),
        ended.then(() => Promise.reject(new Error(`${name} ended at its start.`))),
      ]);
    } catch (error) {
      await kill('SIGKILL');
      throw new Error(`${String(error)} Its log ends:\n${(await log()).slice(-3000)}`, { cause: error });
    }
  };
  const kill = async (signal: 'SIGKILL' | 'SIGTERM' = 'SIGKILL'): Promise<void> => {
    if (running === undefined) return;
    process.kill(running.pid, signal);
    await running.ended;
  };

  await start();
  return {
    name,
    address,
    directory,
    pid: () => running?.pid ?? 0,
    kill: (signal) => kill(signal),
    start,
    log,
    [Symbol.asyncDispose]: () => kill('SIGKILL'),
  };
}

function spawnOutside(
  { name, argv, env }: ServiceOptions,
  logFile: string,
): { readonly pid: number; readonly ended: Promise<unknown> } {
  const child = execa(process.execPath, argv, {
    stdin: 'ignore',
    stdout: { file: logFile, append: true },
    stderr: { file: logFile, append: true },
    env: { ...env },
    reject: false,
  });
  if (child.pid === undefined) throw new Error(`${name} could not be started.`);
  // Not when its output ends: its own children may hold that, and one that was stopped does so for ever.
  return { pid: child.pid, ended: once(child.nodeChildProcess, 'exit') };
}

/** Waits until a server answers at the address. */
async function listening(address: Address): Promise<void> {
  const client = new Client(grpcTarget(address), credentials.createInsecure(), {
    'grpc.initial_reconnect_backoff_ms': 100,
    'grpc.max_reconnect_backoff_ms': 200,
  });
  try {
    await new Promise<void>((resolve, reject) => {
      client.waitForReady(Date.now() + START_MILLISECONDS, (error) => {
        if (error === undefined) resolve();
        else reject(error);
      });
    });
  } finally {
    client.close();
  }
}

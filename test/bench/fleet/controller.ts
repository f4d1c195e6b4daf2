import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { execa } from 'execa';
import pg from 'pg';
import { connect, type Client } from '../../harness/client.ts';
import { until } from '../../lab/deadline.ts';
import { startPostgres } from '../../lab/postgres.ts';

/** As it is run: how its memory is managed is set there. */
const PROGRAM = path.resolve(import.meta.dirname, '../../../controller/bin/holdfast-controller');

/** A controller in a process of its own, on a store of its own; nothing but fake agents is ever behind it. */
export interface BenchController extends AsyncDisposable {
  /** For sockets. */
  readonly directory: string;
  readonly client: Client;
  pid(): number;
  stop(): Promise<void>;
  start(): Promise<void>;
  /** Runs statements on its database. */
  execute(text: string): Promise<void>;
}

export async function startController(kind: 'sqlite' | 'postgres'): Promise<BenchController> {
  await using stack = new AsyncDisposableStack();
  const directory = await mkdtemp(path.join(tmpdir(), 'hf-'));
  stack.defer(() => rm(directory, { recursive: true, force: true }));
  const masterKey = path.join(directory, 'master.key');
  const state = path.join(directory, 'state');
  const socket = path.join(directory, 'c.sock');
  await execa(PROGRAM, ['--create-master-key', masterKey]);
  const url = kind === 'postgres' ? stack.use(await startPostgres()).url('postgres') : undefined;
  const client = connect({ kind: 'unix', path: socket });
  stack.defer(() => client[Symbol.dispose]());

  let running: ChildProcess | undefined;
  // Also when the bench is broken off.
  const end = (): void => {
    running?.kill('SIGKILL');
    rmSync(directory, { recursive: true, force: true });
  };
  process.once('exit', end);
  stack.defer(() => {
    process.off('exit', end);
  });
  const start = async (): Promise<void> => {
    const argv = ['--listen', `unix://${socket}`, '--state-directory', state, '--master-key-file', masterKey];
    running = spawn(PROGRAM, [...argv, '--log-level', 'warn'], {
      stdio: ['ignore', 'inherit', 'inherit'],
      env: { ...process.env, ...(url === undefined ? {} : { HOLDFAST_DATABASE_URL: url }) },
    });
    await until('The controller answers', 300_000, () =>
      client.call(client.zones.listZones.bind(client.zones), {}).catch(() => undefined),
    );
  };
  const stop = async (): Promise<void> => {
    if (running === undefined) return;
    const ended = once(running, 'exit');
    running.kill('SIGKILL');
    running = undefined;
    await ended;
  };
  stack.defer(stop);
  await start();
  const running_ = stack.move();
  return {
    directory,
    client,
    pid: () => running?.pid ?? 0,
    start,
    stop,
    execute: async (text) => {
      if (url === undefined) {
        using database = new DatabaseSync(path.join(state, 'controller.sqlite'));
        database.exec(text);
        return;
      }
      const database = new pg.Client(url);
      await database.connect();
      try {
        await database.query(text);
      } finally {
        await database.end();
      }
    },
    [Symbol.asyncDispose]: () => running_.disposeAsync(),
  };
}

/** CPU seconds that a process has used, and its resident bytes (proc(5)). */
export async function usage(
  pid: number,
): Promise<{ readonly cpuSeconds: number; readonly rssBytes: number }> {
  const text = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = text
    .slice(text.lastIndexOf(')') + 2)
    .split(' ')
    .map(Number);
  const [user = 0, system = 0] = fields.slice(11, 13);
  return { cpuSeconds: (user + system) / 100, rssBytes: (fields[21] ?? 0) * 4096 };
}

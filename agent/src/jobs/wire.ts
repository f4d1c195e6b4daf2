import { chmod, rm } from 'node:fs/promises';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { Control as ControlMessage } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { EventLog } from './eventLog.ts';

/**
 * Between an agent and a runner: lines of JSON over a unix socket. The agent sends `{"follow": "7"}` once and is sent
 * the events after the seventh, or sends commands as `{"command": {...}}`, each of which is answered by a line
 * `{}` or `{"error": "..."}`.
 */
type Request = { readonly follow: string } | { readonly command: unknown };

/** Serves a runner's events and takes its commands. */
export async function serveRunner(
  path: string,
  events: EventLog,
  obey: (command: ControlMessage) => Promise<void>,
): Promise<Server> {
  await rm(path, { force: true });
  const server = createServer((socket) => {
    const gone = new AbortController();
    socket.on('close', () => {
      gone.abort();
    });
    // An agent that died is no fault of the job. readline passes its input's errors on.
    socket.on('error', () => undefined);
    const lines = createInterface({ input: socket }).on('error', () => undefined);
    lines.on('line', (line) => {
      const request = JSON.parse(line) as Request;
      if ('follow' in request) void sendEvents(socket, events, BigInt(request.follow), gone.signal);
      else {
        obey(ControlMessage.fromJSON(request.command)).then(
          () => socket.write('{}\n'),
          (error: unknown) => socket.write(`${JSON.stringify({ error: String(error) })}\n`),
        );
      }
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, resolve);
  });
  await chmod(path, 0o600);
  return server;
}

/** Events of a runner after a number, or undefined when no runner listens. Ends when the runner does. */
export async function followRunner(
  path: string,
  afterSequence: bigint,
  signal: AbortSignal,
): Promise<AsyncIterable<OperationEvent> | undefined> {
  const socket = await dial(path);
  if (socket === undefined) return undefined;
  signal.addEventListener('abort', () => socket.destroy(), { once: true });
  socket.write(`${JSON.stringify({ follow: afterSequence.toString() })}\n`);
  return readEvents(socket);
}

/** Sends one command; false when no runner listens. */
export async function commandRunner(path: string, command: ControlMessage): Promise<boolean> {
  const socket = await dial(path);
  if (socket === undefined) return false;
  socket.write(`${JSON.stringify({ command: ControlMessage.toJSON(command) })}\n`);
  try {
    for await (const line of createInterface({ input: socket })) {
      const answer = JSON.parse(line) as { error?: string };
      if (answer.error !== undefined) throw new Error(answer.error);
      return true;
    }
    return false;
  } finally {
    socket.destroy();
  }
}

async function sendEvents(
  socket: Socket,
  events: EventLog,
  after: bigint,
  signal: AbortSignal,
): Promise<void> {
  for await (const event of events.follow(after, signal)) {
    const line = `${JSON.stringify(OperationEvent.toJSON(event))}\n`;
    // A slow reader makes progress be skipped, not queued.
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        signal.removeEventListener('abort', wake);
        resolve();
      };
      signal.addEventListener('abort', wake);
      socket.write(line, wake);
    });
  }
  socket.end();
}

async function* readEvents(socket: Socket): AsyncGenerator<OperationEvent, void> {
  try {
    for await (const line of createInterface({ input: socket }))
      yield OperationEvent.fromJSON(JSON.parse(line));
  } catch {
    // The runner was killed, perhaps in the middle of a line; its journal has all that it said.
  } finally {
    socket.destroy();
  }
}

function dial(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      resolve(socket);
    });
    socket.on('error', () => {
      resolve(undefined);
    });
  });
}

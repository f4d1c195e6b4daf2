import { createConnection, type Socket } from 'node:net';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';

/** QEMU refused a command; `description` is its own sentence. */
export class QmpError extends Error {
  override readonly name = 'QmpError';
  readonly description: string;

  constructor(command: string, description: string) {
    super(`${command}: ${description}`);
    this.description = description;
  }
}

/** A client of a QMP monitor (qemu.git docs/interop/qmp-spec.rst). A monitor greets one client at a time only. */
export interface Qmp {
  /**
   * Runs a command and returns what it returns. Default deadline 120 s.
   *
   * @throws QmpError when QEMU refuses, HoldfastError QEMU_FAILED when it is gone or does not answer in time.
   */
  execute(command: string, args?: object, deadlineMs?: number): Promise<unknown>;
  /** Calls the listener with the data of each such event from now on. */
  on(event: string, listener: (data: unknown) => void): void;
  /** Lets the monitor go. */
  close(): void;
}

interface Pending {
  readonly command: string;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
  timer: NodeJS.Timeout;
  readonly nudging: NodeJS.Timeout;
}

interface QmpMessage {
  readonly id?: number;
  readonly return?: unknown;
  readonly error?: { readonly desc: string };
  readonly QMP?: object;
  readonly event?: string;
  readonly data?: unknown;
}

const CONNECT_DEADLINE_MS = 30_000;
const GREETING_DEADLINE_MS = 5_000;
/** A command that opens a file waits for as long as a client of NFS does, which asks again after a minute (nfs(5), timeo). */
const COMMAND_DEADLINE_MS = 120_000;
const NUDGE_EVERY_MS = 5_000;

export interface QmpOptions {
  /** Whether a QEMU that does not answer in time is to be waited for all the same. */
  readonly isExcused?: () => boolean;
  /** Is told of a command that was not answered in time; the command fails when it is done. */
  readonly onLate?: (command: string) => Promise<void>;
  /** Is called again and again while a command has no answer, every so many milliseconds. */
  readonly nudge?: () => void;
  readonly nudgeEveryMs?: number;
  /** How long a connection may go without an answer before another one is made. */
  readonly greetingMs?: number;
}

/**
 * Connects to a monitor that listens on a unix socket, or is about to. A connection that QEMU takes while it is still
 * starting may never be answered (seen with 7.2 on an emulated host); the next one is.
 *
 * @param signal when it aborts, all commands fail with its reason
 * @throws HoldfastError QEMU_FAILED when none was answered in thirty seconds.
 */
export async function connectQmp(
  path: string,
  logger: Pick<Logger, 'debug'>,
  signal: AbortSignal,
  options: QmpOptions = {},
): Promise<Qmp> {
  const { greetingMs = GREETING_DEADLINE_MS } = options;
  const deadline = Date.now() + CONNECT_DEADLINE_MS;
  for (;;) {
    signal.throwIfAborted();
    const socket = await tryConnect(path);
    const qmp = socket && talk(socket, logger, signal, options);
    try {
      await qmp?.execute('qmp_capabilities', {}, greetingMs);
      if (qmp !== undefined) return qmp;
    } catch (error) {
      qmp?.close();
      if (Date.now() > deadline) throw error;
    }
    if (Date.now() > deadline) throw new HoldfastError('QEMU_FAILED', `No QEMU answers on ${path}.`);
    await sleep(20);
  }
}

function tryConnect(path: string): Promise<Socket | undefined> {
  return new Promise((resolve) => {
    const socket = createConnection(path);
    socket.once('connect', () => {
      resolve(socket);
    });
    socket.once('error', () => {
      resolve(undefined);
    });
  });
}

function talk(
  socket: Socket,
  logger: Pick<Logger, 'debug'>,
  signal: AbortSignal,
  {
    isExcused = () => false,
    onLate = () => Promise.resolve(),
    nudge = () => undefined,
    nudgeEveryMs = NUDGE_EVERY_MS,
  }: QmpOptions,
): Qmp {
  const pending = new Map<number, Pending>();
  const listeners = new Map<string, (data: unknown) => void>();
  let lastId = 0;
  let gone = false;

  const failAll = (errorOf: (command: string) => Error): void => {
    for (const { command, reject, timer, nudging } of pending.values()) {
      clearTimeout(timer);
      clearInterval(nudging);
      reject(errorOf(command));
    }
    pending.clear();
  };
  const fail = (): void => {
    gone = true;
    failAll((command) => new HoldfastError('QEMU_FAILED', `QEMU ended before it answered ${command}.`));
  };
  const abort = (): void => {
    failAll(() => signal.reason as Error);
  };
  signal.addEventListener('abort', abort);
  socket.on('error', fail);
  socket.on('close', fail);
  // readline passes its input's errors on, and a daemon that was killed is one.
  const lines = createInterface({ input: socket }).on('error', fail);
  lines.on('line', (line) => {
    const message = JSON.parse(line) as QmpMessage;
    const waiting = message.id === undefined ? undefined : pending.get(message.id);
    if (message.event !== undefined) listeners.get(message.event)?.(message.data);
    // The greeting and events carry no id.
    if (message.id === undefined || waiting === undefined) return;
    pending.delete(message.id);
    clearTimeout(waiting.timer);
    clearInterval(waiting.nudging);
    if (message.error === undefined) waiting.resolve(message.return);
    else waiting.reject(new QmpError(waiting.command, message.error.desc));
  });

  return {
    execute: (command, args = {}, deadlineMs = COMMAND_DEADLINE_MS) =>
      new Promise((resolve, reject) => {
        if (signal.aborted) {
          reject(signal.reason as Error);
          return;
        }
        if (gone) {
          reject(new HoldfastError('QEMU_FAILED', `QEMU is gone; ${command} was not run.`));
          return;
        }
        const id = ++lastId;
        // Arguments can be secrets.
        if (!command.startsWith('query-')) logger.debug('qmp', { command });
        const late = (): void => {
          const waiting = pending.get(id);
          if (waiting !== undefined && isExcused()) {
            waiting.timer = setTimeout(late, deadlineMs);
            return;
          }
          // A machine that stood still has the answer already, which is read before this comes.
          setImmediate(() => {
            if (!pending.delete(id)) return;
            clearInterval(nudging);
            const sentence = `QEMU did not answer ${command} within ${deadlineMs} ms.`;
            void onLate(command).finally(() => {
              reject(new HoldfastError('QEMU_FAILED', sentence));
            });
          });
        };
        const timer = setTimeout(late, deadlineMs);
        const nudging = setInterval(nudge, nudgeEveryMs);
        pending.set(id, { command, resolve, reject, timer, nudging });
        socket.write(`${JSON.stringify({ execute: command, arguments: args, id })}\n`);
      }),
    on: (event, listener) => {
      listeners.set(event, listener);
    },
    close: () => {
      signal.removeEventListener('abort', abort);
      socket.destroy();
    },
  };
}

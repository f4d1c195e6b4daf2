import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { ReaderOrder, ReaderReport, ReaderTask } from './reader.ts';

/** A process that reads a disk and digests it, once it is told what. */
export interface DigestReader {
  /** Begins. The exports must be there. */
  read(task: Omit<ReaderTask, 'kind'>): void;
  /** One for each chunk of the task, in their order. @throws HoldfastError QEMU_FAILED */
  readonly digests: Promise<readonly string[]>;
  /** What was read so far. */
  readonly readBytes: () => number;
  setPaused(paused: boolean): void;
  /** Ends it, at once. */
  kill(): Promise<void>;
}

const PROGRAM = fileURLToPath(new URL('./reader.ts', import.meta.url));

/**
 * Starts the process that will read a disk through NBD exports, all of the same content, and digest it.
 *
 * @param target the disk, for messages
 */
export function startDigestReader(
  server: { readonly socket: string; readonly exports: readonly string[] },
  target: string,
  moved: () => void,
): DigestReader {
  const child = fork(PROGRAM, [server.socket, ...server.exports], {
    serialization: 'advanced',
    stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    execArgv: [],
  });
  const ended = once(child, 'exit').catch(() => undefined);
  const found: string[] = [];
  let readBytes = 0;
  const failed = (why: string): HoldfastError =>
    new HoldfastError('QEMU_FAILED', `Disk ${target} could not be read for its digests: ${why}.`, {
      metadata: { disk: target },
    });
  const digests = new Promise<readonly string[]>((resolve, reject) => {
    child.on('message', (report: ReaderReport) => {
      switch (report.kind) {
        case 'digests':
          found.push(...report.digests);
          readBytes += report.readBytes;
          moved();
          return;
        case 'done':
          resolve(found);
          return;
        case 'failed':
          reject(failed(report.message));
      }
    });
    child.on('error', (error) => {
      reject(failed(error.message));
    });
    child.on('exit', () => {
      reject(failed('the process that read it ended'));
    });
  });
  // Whoever waits for another disk must not miss that this one failed; nor is it unheard of then.
  digests.catch(() => undefined);
  const order = (what: ReaderOrder): void => {
    if (child.connected) child.send(what, () => undefined);
  };
  return {
    read: (task) => {
      order({ kind: 'task', ...task });
    },
    digests,
    readBytes: () => readBytes,
    setPaused: (paused) => {
      order({ kind: 'pause', paused });
    },
    kill: async () => {
      child.kill('SIGKILL');
      await ended;
    },
  };
}

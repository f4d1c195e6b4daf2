import { spawn } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { constants } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { MIB } from '@holdfast/common/bytes.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { processesWithArgument, signalProcess } from '../process/identity.ts';
import { threadsOf } from '../process/threads.ts';
import { connectQmp, QmpError, type Qmp } from './qmp.ts';

/** A block job as query-jobs reports it. Progress is in bytes of the disk's address space. */
export interface BlockJob {
  readonly id: string;
  readonly status: string;
  readonly progressBytes: number;
  readonly totalBytes: number;
  readonly error: string | undefined;
}

/** qemu-storage-daemon: the one process of a job through which all guest data flows. */
export interface StorageDaemon {
  readonly qmp: Qmp;
  /** Gives QEMU a secret under an id. `base64` when the secret's bytes are given so. */
  addSecret(id: string, secret: Secret, format?: 'raw' | 'base64'): Promise<void>;
  /** Takes it away again; nodes that were opened with it stay open. qom-get would give it away until then. */
  removeSecret(id: string): Promise<void>;
  /** Runs blockdev-create to its end. */
  create(jobId: string, options: object, signal: AbortSignal): Promise<void>;
  jobs(): Promise<readonly BlockJob[]>;
  /** The highest offset ever written, in bytes, by node name: QEMU's own account of what it wrote. */
  writtenBytes(): Promise<ReadonlyMap<string, number>>;
  /** Ends it and waits until it is gone. */
  quit(): Promise<void>;
}

const SOCKET = 'qmp.sock';
/** Of a second monitor, for whoever ends a daemon whose first one has an owner: each takes one client at a time. */
const END_SOCKET = 'end.sock';

/**
 * mallopt(3): without these the C library gives the buffer of each request back to the kernel, which clears it anew for the
 * next one: a tenth of the daemon's CPU time.
 */
const KEEP_FREED_MEMORY = {
  MALLOC_MMAP_THRESHOLD_: String(16 * MIB),
  MALLOC_TRIM_THRESHOLD_: String(128 * MIB),
};

const STOP_DEADLINE_MS = 5_000;
/** Of the few seconds that a write of a guest may wait. */
const REMOVE_EXPORTS_MS = 500;
const CREATE_DEADLINE_MS = 120_000;

/** QEMU times its key derivation by CPU time and gives up when that is too little: about one try of nine. */
const CREATE_ATTEMPTS = 6;
const FLAKY_KEY_DERIVATION = 'Unable to get accurate CPU usage';

export interface DaemonOptions {
  /** The I/O scheduling class in which it reads and writes (ionice(1)), for disks whose scheduler heeds it. */
  readonly ioClass?: 'none' | 'idle';
  /** Whether it is to be waited for when it does not answer in time, since what it works on does not. */
  readonly isExcused?: () => boolean;
}

/**
 * Starts qemu-storage-daemon with its monitor and log in `directory` (0700). It is in a session of its own, so that no
 * signal meant for its parent reaches it.
 *
 * @param signal ends all waiting for it
 * @throws HoldfastError QEMU_FAILED
 */
export async function startStorageDaemon(
  directory: string,
  logger: Logger,
  signal: AbortSignal,
  { ioClass = 'none', isExcused = () => false }: DaemonOptions = {},
): Promise<StorageDaemon> {
  const log = await open(join(directory, 'qemu-storage-daemon.log'), 'a', 0o600);
  // A host that does not allow the class gets the backup all the same: what came of it is read back.
  const prefix = ioClass === 'idle' ? ['--ignore', '--class', 'idle', 'qemu-storage-daemon'] : [];
  const child = spawn(
    ioClass === 'idle' ? 'ionice' : 'qemu-storage-daemon',
    [
      ...prefix,
      ...['--chardev', monitorArgument(directory), '--monitor', 'chardev=monitor'],
      ...['--chardev', socketArgument('end', directory, END_SOCKET), '--monitor', 'chardev=end'],
    ],
    {
      detached: true,
      stdio: ['ignore', log.fd, log.fd],
      env: { ...process.env, ...KEEP_FREED_MEMORY, LC_ALL: 'C.UTF-8' },
    },
  );
  const failed = new Promise<never>((_resolve, reject) => {
    child.once('error', (error) => {
      reject(new HoldfastError('QEMU_FAILED', `qemu-storage-daemon could not be started: ${error.message}`));
    });
  });
  await log.close();
  const onLate = (command: string): Promise<void> => logThreads(directory, command, logger);
  const nudge = (): void => {
    nudgeStorageDaemon(directory).catch((error: unknown) => {
      logger.debug('qemu-storage-daemon could not be nudged', { error });
    });
  };
  const connected = connectQmp(join(directory, SOCKET), logger, signal, { isExcused, onLate, nudge });
  const qmp = await Promise.race([connected, failed]);
  return daemon(directory, qmp, isExcused);
}

/** Ends the daemon that was started in `directory`, if it is still there: TERM, then KILL. */
export async function stopStorageDaemon(directory: string): Promise<void> {
  const argument = monitorArgument(directory);
  for (const name of ['SIGTERM', 'SIGKILL'] as const) {
    const pids = await processesWithArgument(argument);
    if (pids.length === 0) return;
    for (const pid of pids) signalProcess(pid, name);
    const deadline = Date.now() + STOP_DEADLINE_MS;
    while ((await processesWithArgument(argument)).length > 0 && Date.now() < deadline) await sleep(20);
  }
  if ((await processesWithArgument(argument)).length > 0) {
    throw new HoldfastError(
      'QEMU_FAILED',
      'qemu-storage-daemon does not end, even by SIGKILL; its storage may hang.',
    );
  }
}

/**
 * Kills the daemon that was started in `directory` and does not wait for its end: whatever it owes an answer fails. Its
 * exports are taken away first, since a daemon in the middle of a call to a file system that hangs cannot be killed, and
 * its sockets stay open until it is gone.
 */
export async function killStorageDaemon(directory: string): Promise<void> {
  // One that is stopped takes no commands, and needs none.
  await Promise.race([removeExports(directory).catch(() => undefined), sleep(REMOVE_EXPORTS_MS)]);
  for (const pid of await processesWithArgument(monitorArgument(directory))) signalProcess(pid, 'SIGKILL');
}

async function removeExports(directory: string): Promise<void> {
  const deadline = AbortSignal.timeout(REMOVE_EXPORTS_MS);
  const qmp = await connectQmp(join(directory, END_SOCKET), { debug: () => undefined }, deadline);
  try {
    const exports = (await qmp.execute('query-block-exports')) as { readonly id: string }[];
    await Promise.all(exports.map(({ id }) => qmp.execute('block-export-del', { id, mode: 'hard' })));
  } finally {
    qmp.close();
  }
}

/**
 * Wakes the daemon's main loop and the thread of its monitors. QEMU 7.2 was seen, once in thousands of backups, to sleep with a
 * command unanswered: its main loop and its monitor each waited for the other in poll(2). Whatever wakes them has them look. QEMU
 * takes SIGIO by a file descriptor in its main loop (util/main-loop.c, qemu_signal_init) and does nothing upon it; a
 * connection to the other monitor is taken by the monitors' thread.
 */
export async function nudgeStorageDaemon(directory: string): Promise<void> {
  for (const pid of await processesWithArgument(monitorArgument(directory))) {
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    const blocked = BigInt(`0x${/^SigBlk:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
    // Where it is not taken so, it would end the daemon.
    if ((blocked & (1n << BigInt(constants.signals.SIGIO - 1))) !== 0n) signalProcess(pid, 'SIGIO');
  }
  const socket = createConnection(join(directory, END_SOCKET));
  socket.once('error', () => undefined);
  socket.once('connect', () => socket.destroy());
}

/** Where a daemon hangs is known by its threads only, and those are gone when the job has been undone. */
async function logThreads(directory: string, command: string, logger: Logger): Promise<void> {
  for (const pid of await processesWithArgument(monitorArgument(directory)))
    logger.warn('qemu-storage-daemon does not answer', { command, pid, threads: await threadsOf(pid) });
}

/** The process ids of the daemon that was started in `directory`. */
export async function storageDaemonPids(directory: string): Promise<readonly number[]> {
  return processesWithArgument(monitorArgument(directory));
}

/** The directory in which the process with these arguments was started, when it is a daemon of startStorageDaemon. */
export function storageDaemonDirectory(argv: readonly string[]): string | undefined {
  if (basename(argv[0] ?? '') !== 'qemu-storage-daemon') return undefined;
  for (const argument of argv) {
    const socket = /^socket,id=monitor,path=(.*)\/qmp\.sock,server=on,wait=off$/.exec(argument)?.[1];
    if (socket !== undefined) return socket.replaceAll(',,', ',');
  }
  return undefined;
}

/** Names the daemon among all processes. */
function monitorArgument(directory: string): string {
  return socketArgument('monitor', directory, SOCKET);
}

/** Commas are doubled where QEMU splits at commas. */
function socketArgument(id: string, directory: string, name: string): string {
  return `socket,id=${id},path=${join(directory, name).replaceAll(',', ',,')},server=on,wait=off`;
}

function daemon(directory: string, qmp: Qmp, isExcused: () => boolean): StorageDaemon {
  const jobs = async (): Promise<BlockJob[]> => {
    const raw = (await qmp.execute('query-jobs')) as {
      id: string;
      status: string;
      'current-progress': number;
      'total-progress': number;
      error?: string;
    }[];
    return raw.map((job) => ({
      id: job.id,
      status: job.status,
      progressBytes: job['current-progress'],
      totalBytes: job['total-progress'],
      error: job.error,
    }));
  };
  const createOnce = async (
    jobId: string,
    options: object,
    signal: AbortSignal,
  ): Promise<string | undefined> => {
    await qmp.execute('blockdev-create', { 'job-id': jobId, options });
    const deadline = Date.now() + CREATE_DEADLINE_MS;
    for (;;) {
      signal.throwIfAborted();
      const job = (await jobs()).find((candidate) => candidate.id === jobId);
      if (job?.status === 'concluded') {
        await qmp.execute('job-dismiss', { id: jobId });
        return job.error;
      }
      if (Date.now() > deadline && !isExcused()) return `not done within ${CREATE_DEADLINE_MS} ms`;
      await sleep(20);
    }
  };
  return {
    qmp,
    jobs,
    addSecret: async (id, secret, format = 'raw') => {
      await qmp.execute('object-add', { 'qom-type': 'secret', id, data: secret.reveal(), format });
    },
    removeSecret: async (id) => {
      await qmp.execute('object-del', { id });
    },
    create: async (jobId, options, signal) => {
      for (let attempt = 1; ; attempt++) {
        const error = await createOnce(jobId, options, signal);
        if (error === undefined) return;
        if (attempt < CREATE_ATTEMPTS && error.includes(FLAKY_KEY_DERIVATION)) continue;
        throw new QmpError('blockdev-create', error);
      }
    },
    writtenBytes: async () => {
      const nodes = (await qmp.execute('query-blockstats', { 'query-nodes': true })) as {
        'node-name'?: string;
        stats: { wr_highest_offset: number };
      }[];
      return new Map(nodes.map((node) => [node['node-name'] ?? '', node.stats.wr_highest_offset]));
    },
    quit: async () => {
      await qmp.execute('quit').catch(() => undefined);
      qmp.close();
      await stopStorageDaemon(directory);
    },
  };
}

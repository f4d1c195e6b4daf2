import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import type { Logger } from './logger.ts';

/** What a service tells systemd of itself (sd_notify(3)); nothing when systemd did not start it so. */
export interface ServiceManager {
  /** That it serves. From now on it is also told that the service still runs, when the unit has WatchdogSec. */
  ready(): Promise<void>;
  /** That it ends. */
  stopping(): Promise<void>;
}

const NOTIFY_DEADLINE_MS = 10_000;
/** Of the time after which systemd takes the service for dead. */
const WATCHDOG_SHARE = 1 / 2;

/**
 * To be called at a program's start, before it starts others: takes what systemd says out of the environment, since it is
 * meant for this process alone. Speaks through systemd-notify(1), because Node has no datagrams over unix sockets.
 */
export function serviceManager(logger: Logger): ServiceManager {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: watchdogUs, WATCHDOG_PID: watchdogPid } = process.env;
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'])
    Reflect.deleteProperty(process.env, name);
  const isWatched = watchdogUs !== undefined && watchdogPid === String(process.pid);

  const tell = async (...words: readonly string[]): Promise<void> => {
    if (socket === undefined) return;
    try {
      await promisify(execFile)('systemd-notify', words, {
        env: { ...process.env, NOTIFY_SOCKET: socket },
        timeout: NOTIFY_DEADLINE_MS,
        killSignal: 'SIGKILL',
      });
    } catch (error) {
      logger.warn('systemd could not be told', { words, error });
    }
  };
  let telling: Promise<void> | undefined;
  return {
    ready: async () => {
      await tell('READY=1');
      if (!isWatched) return;
      // A process that hangs has no timers, so nothing is told.
      setInterval(
        () => {
          telling ??= tell('WATCHDOG=1').finally(() => (telling = undefined));
        },
        (Number(watchdogUs) / 1_000) * WATCHDOG_SHARE,
      ).unref();
    },
    stopping: () => tell('STOPPING=1'),
  };
}

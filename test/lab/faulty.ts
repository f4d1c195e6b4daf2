import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { until } from './deadline.ts';
import { mountsBelow } from './directory.ts';

/** What a file system can answer in the place of what it was asked for; `slow` answers late. */
export type FaultyAnswer = 'full' | 'EIO' | 'read-only' | 'slow' | 'stale';

/** A directory that is mounted a second time through a process that has faults (FUSE). */
export interface Faulty extends AsyncDisposable {
  /** Where it is mounted. */
  readonly point: string;
  /** The directory itself, which has no faults. */
  readonly directory: string;
  /** All calls are answered so from now on. */
  answer(answer: FaultyAnswer): Promise<void>;
  /** Nothing is answered until `heal`; who waits for an answer cannot even be killed. */
  hang(): void;
  /** As when the server is lost: every call fails with ENOTCONN. */
  lose(): Promise<void>;
  /** Ends every fault. */
  heal(): Promise<void>;
}

const PROGRAM = path.join(import.meta.dirname, 'faulty.py');
/** Debian's own, whose packages have the FUSE library. */
const PYTHON = '/usr/bin/python3';

interface Daemon {
  readonly over: boolean;
  readonly kill: (signal: NodeJS.Signals) => boolean;
  /** Gives what it wrote to its standard error. */
  readonly ended: Promise<string>;
}

/** Mounts `directory` at `point`; both are made. */
export async function mountFaulty(point: string, directory: string): Promise<Faulty> {
  const faultFile = `${directory}.fault`;
  await mkdir(point, { recursive: true });
  await mkdir(directory, { recursive: true });
  await writeFile(faultFile, '');
  let daemon: Daemon;

  const isMounted = async (): Promise<boolean> =>
    (await mountsBelow(path.dirname(point))).some((each) => each === point);
  const mount = async (): Promise<void> => {
    const started = execa(PYTHON, [PROGRAM, point, directory, faultFile], { stdin: 'ignore', reject: false });
    const process = {
      over: false,
      kill: (signal: NodeJS.Signals) => started.kill(signal),
      ended: started.then(({ stderr }) => {
        process.over = true;
        return stderr;
      }),
    };
    daemon = process;
    await until(`${directory} is mounted`, 20_000, async () =>
      daemon.over || (await isMounted()) ? true : undefined,
    );
    if (daemon.over) throw new Error(`${PROGRAM}: ${await daemon.ended}`);
  };
  const unmount = async (): Promise<void> => {
    // What a process that ends has unmounted meanwhile is no error.
    while (await isMounted()) await execa('umount', ['--lazy', point], { reject: false });
  };
  const signal = (name: NodeJS.Signals): void => {
    daemon.kill(name);
  };

  await mount();
  return {
    point,
    directory,
    answer: (answer) => writeFile(faultFile, answer),
    hang: () => {
      signal('SIGSTOP');
    },
    lose: async () => {
      signal('SIGKILL');
      await daemon.ended;
    },
    heal: async () => {
      await writeFile(faultFile, '');
      signal('SIGCONT');
      if (!daemon.over) return;
      await unmount();
      await mount();
    },
    [Symbol.asyncDispose]: async () => {
      signal('SIGKILL');
      await daemon.ended;
      await unmount();
    },
  };
}

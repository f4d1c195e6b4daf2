import { Buffer } from 'node:buffer';
import { until } from './deadline.ts';
import type { Virsh } from './virsh.ts';

/** The QEMU guest agent in one running guest. Command names and arguments: "QEMU Guest Agent Protocol Reference". */
export interface GuestAgent {
  /** One command, by its own name; returns what is under `return`. Throws what the agent or libvirt answers. */
  command(execute: string, args?: object): Promise<unknown>;
  /**
   * Runs a program in the guest and waits for its end; default deadline 30 s. Whether it has ended is asked every 100 ms,
   * or as often as `pauseMilliseconds` says.
   */
  exec(
    argv: readonly [string, ...string[]],
    milliseconds?: number,
    pauseMilliseconds?: number,
  ): Promise<ExecResult>;
  /** Writes a file in the guest and waits until it is on the disk. */
  writeFile(path: string, text: string): Promise<void>;
  readFile(path: string): Promise<string>;
}

export interface ExecResult {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

interface ExecStatus {
  readonly exited: boolean;
  readonly exitcode?: number;
  readonly 'out-data'?: string;
  readonly 'err-data'?: string;
}

export function guestAgent(virsh: Virsh, uuid: string): GuestAgent {
  const command: GuestAgent['command'] = async (execute, args) => {
    const request = JSON.stringify({ execute, ...(args && { arguments: args }) });
    const answer = JSON.parse(await virsh(['qemu-agent-command', uuid, request, '--timeout', '10'])) as {
      return: unknown;
    };
    return answer.return;
  };

  const exec: GuestAgent['exec'] = async ([program, ...rest], milliseconds = 30_000, pauseMilliseconds) => {
    const started = await command('guest-exec', { path: program, arg: rest, 'capture-output': true });
    const { pid } = started as { pid: number };
    const ended = async () => {
      const answer = (await command('guest-exec-status', { pid })) as ExecStatus;
      return answer.exited ? answer : undefined;
    };
    const status = await until(`${program} in the guest ends`, milliseconds, ended, pauseMilliseconds);
    const text = (data: string | undefined) => Buffer.from(data ?? '', 'base64').toString();
    return {
      exitCode: status.exitcode ?? -1,
      stdout: text(status['out-data']),
      stderr: text(status['err-data']),
    };
  };

  const withFile = async <T>(path: string, mode: string, use: (handle: number) => Promise<T>): Promise<T> => {
    const handle = (await command('guest-file-open', { path, mode })) as number;
    try {
      return await use(handle);
    } finally {
      await command('guest-file-close', { handle });
    }
  };

  return {
    command,
    exec,
    writeFile: async (path, text) => {
      await withFile(path, 'w', (handle) =>
        command('guest-file-write', { handle, 'buf-b64': Buffer.from(text).toString('base64') }),
      );
      // guest-file-flush is no more than fflush: it leaves the text in the guest's page cache.
      const synced = await exec(['/bin/sync']);
      if (synced.exitCode !== 0) throw new Error(`sync after ${path}: ${synced.stderr}`);
    },
    readFile: async (path) =>
      withFile(path, 'r', async (handle) => {
        let text = '';
        while (true) {
          const chunk = (await command('guest-file-read', { handle, count: 65_536 })) as {
            'buf-b64': string;
            eof: boolean;
          };
          text += Buffer.from(chunk['buf-b64'], 'base64').toString('latin1');
          if (chunk.eof) return Buffer.from(text, 'latin1').toString();
        }
      }),
  };
}

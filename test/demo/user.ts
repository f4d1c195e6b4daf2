import { createInterface } from 'node:readline';
import path from 'node:path';
import { execa } from 'execa';

/** What a person at a terminal does: types `holdfast` commands and reads what they say. */
export interface User {
  /** Types one command, shows what it prints, and waits for its end. Throws when it fails. */
  types(args: readonly string[], options?: Typing): Promise<void>;
  /** Asks the same for a program: one command's JSON lines, not shown. */
  asks(args: readonly string[]): AsyncGenerator;
}

export interface Typing {
  /** Stands before each line, to tell two terminals apart. */
  readonly terminal?: string;
}

const program = path.resolve(import.meta.dirname, '../../cli/bin/holdfast');

/** @param signal ends what runs when it aborts */
export function userOf(controller: string, signal: AbortSignal): User {
  const start = (args: readonly string[]) =>
    execa(program, args, {
      env: { HOLDFAST_CONTROLLER: controller },
      cancelSignal: signal,
      stdin: 'ignore',
      stdout: 'pipe',
      stderr: 'pipe',
      buffer: false,
      all: true,
    });
  return {
    types: async (args, { terminal = '' } = {}) => {
      console.log(`${terminal}$ holdfast ${args.map(quoted).join(' ')}`);
      const subprocess = start(args);
      for await (const line of createInterface({ input: subprocess.all })) console.log(`${terminal}${line}`);
      await subprocess;
    },
    async *asks(args) {
      const subprocess = start(['--json', ...args]);
      for await (const line of createInterface({ input: subprocess.stdout })) {
        yield JSON.parse(line) as unknown;
      }
      await subprocess;
    },
  };
}

/** As a shell needs it. */
function quoted(word: string): string {
  return /^[\w./:=@%+,-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

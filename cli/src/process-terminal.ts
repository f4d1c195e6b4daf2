import { open, readFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import { text } from 'node:stream/consumers';
import { setTimeout as delay } from 'node:timers/promises';
import type { WriteStream } from 'node:tty';
import { confirm, password, select } from '@inquirer/prompts';
import { Secret } from '@holdfast/common/secret.ts';
import { createLogUpdate } from 'log-update';
import { CommandError, usage } from './command-error.ts';
import type { Output, Terminal } from './terminal.ts';

/** The terminal, the environment and the clock of a real process. */
export function processTerminal(process: NodeJS.Process): Terminal {
  // Questions go to stderr: stdout may be read by a program.
  const context = { output: process.stderr, clearPromptOnDone: true };
  return {
    out: outputTo(process.stdout),
    err: outputTo(process.stderr),
    // Both are undefined, whatever their types say, when they are not terminals.
    interactive: isTerminal(process.stdin) && isTerminal(process.stderr),
    environment: process.env,
    hostName: hostname(),
    canvas: () => {
      const update = createLogUpdate(process.stdout);
      return {
        draw: update,
        persist: (text) => {
          update.persist(text);
        },
        clear: () => {
          update.clear();
        },
        done: () => {
          update.done();
        },
      };
    },
    readTextFile: (path) => (path === '-' ? text(process.stdin) : readFile(path, 'utf8')),
    readPrivateFile,
    askSecret: async (message) => {
      const answer = await unlessCancelled(password({ message, mask: false }, context));
      if (answer === undefined) throw new CommandError('INTERRUPTED', 'No passphrase was given.');
      return new Secret(answer);
    },
    confirm: async (message) =>
      (await unlessCancelled(confirm({ message, default: false }, context))) ?? false,
    choose: (message, choices, signal) =>
      unlessCancelled(
        select(
          { message, choices: choices.map(({ value, label }) => ({ value, name: label })) },
          { ...context, signal },
        ),
      ),
    onInterrupt: (listener) => {
      process.on('SIGINT', listener).on('SIGTERM', listener);
      return () => {
        process.off('SIGINT', listener).off('SIGTERM', listener);
      };
    },
    wait: (milliseconds, signal) =>
      delay(milliseconds, undefined, signal === undefined ? {} : { signal }).catch((error: unknown) => {
        if (signal?.aborted !== true) throw error;
      }),
    nowMs: () => performance.now(),
  };
}

function isTerminal(stream: { readonly isTTY?: boolean }): boolean {
  return stream.isTTY ?? false;
}

function outputTo(stream: Pick<WriteStream, 'write' | 'columns'> & { readonly isTTY?: boolean }): Output {
  return {
    write: (line) => {
      stream.write(line);
    },
    isTerminal: isTerminal(stream),
    columns: () => (isTerminal(stream) ? stream.columns : 80),
  };
}

/** Ctrl-C at a question and an aborted signal are answers, not failures. */
async function unlessCancelled<Answer>(answer: Promise<Answer>): Promise<Answer | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Error && ['ExitPromptError', 'AbortPromptError'].includes(error.name))
      return undefined;
    throw error;
  }
}

/** The mode of the file that is read, not of what its name led to a moment before. */
async function readPrivateFile(path: string): Promise<string> {
  await using file = await open(path);
  const { mode } = await file.stat();
  if ((mode & 0o077) === 0) return await file.readFile('utf8');
  throw usage(`${path} can be read by others than its owner: chmod 600 ${path}`);
}

import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import type { Holdfast } from '../../harness/holdfast.ts';

const ROOT = path.resolve(import.meta.dirname, '../../..');

/** The environment in which `holdfast` finds a controller. */
export function controllerEnvironment({ controller: { address } }: Holdfast): Record<string, string> {
  return address.kind === 'unix' ? { HOLDFAST_CONTROLLER: `unix:${address.path}` } : {};
}

/** What a command of a page came to. */
export interface CommandEnd {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

/** A page of the documentation whose commands are run as they stand there. */
export interface Page {
  /**
   * Runs the first block of commands that matches, in a shell that stops at an error and finds `holdfast`.
   *
   * @param words what a reader would put in the place of a part of the text
   */
  command(
    which: RegExp,
    words: Readonly<Record<string, string>>,
    env?: Readonly<Record<string, string>>,
  ): Promise<CommandEnd>;
  /** All blocks of commands, one after the other, with a reader's words in their places. */
  allCommands(words: Readonly<Record<string, string>>): string;
}

/** @param file relative to the root of the checkout */
export async function pageOf(file: string): Promise<Page> {
  const text = await readFile(path.join(ROOT, file), 'utf8');
  const blocks = [...text.matchAll(/^```sh\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
  return {
    command: async (which, words, env = {}) => {
      const found = blocks.find((each) => which.test(each));
      if (found === undefined) throw new Error(`${file} has no command that matches ${which.source}`);
      const block = inWords(found, words);
      const { exitCode, stdout, stderr } = await execa('bash', ['-euc', block], {
        env: { PATH: `${path.join(ROOT, 'cli/bin')}:${process.env['PATH'] ?? ''}`, ...env },
        reject: false,
        timeout: 120_000,
      });
      return { exitCode, stdout, stderr };
    },
    allCommands: (words) => inWords(blocks.join('\n'), words),
  };
}

function inWords(text: string, words: Readonly<Record<string, string>>): string {
  return Object.entries(words).reduce(
    (said, [word, replacement]) => said.replaceAll(word, () => replacement),
    text,
  );
}

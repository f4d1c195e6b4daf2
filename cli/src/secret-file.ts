import { Secret } from '@holdfast/common/secret.ts';
import { usage } from './command-error.ts';
import type { Terminal } from './terminal.ts';

/** The first line of a file, - is standard input. `what` names the secret in an error. */
export async function readSecretFile(terminal: Terminal, file: string, what: string): Promise<Secret> {
  let text: string;
  try {
    text = await terminal.readTextFile(file);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error';
    throw usage(`The ${what} file ${file} cannot be read: ${code}.`);
  }
  // Editors and `echo` end the line.
  return new Secret(text.replace(/\r?\n$/, ''));
}

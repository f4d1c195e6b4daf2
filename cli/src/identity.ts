import { Secret } from '@holdfast/common/secret.ts';
import type { Command } from 'commander';
import { usage } from './command-error.ts';
import type { Terminal } from './terminal.ts';

const IDENTITY = /^AGE-SECRET-KEY-1[A-Z0-9]{58}$/;

/** How an escrow identity can be given. Never on the command line, where every user of the machine reads it. */
export interface IdentityOptions {
  readonly identityFile?: string;
  readonly askIdentity?: boolean;
}

/** Adds the options to a command. */
export function withIdentityOptions(command: Command): Command {
  return command
    .option(
      '--identity-file <file>',
      'the file of age-keygen with the escrow identity, which only you can read; - is standard input',
    )
    .option('--ask-identity', 'ask for the escrow identity on the terminal');
}

/** The identity that the options lead to. A file that others can read is refused. */
export async function readIdentity(terminal: Terminal, options: IdentityOptions): Promise<Secret> {
  const { identityFile, askIdentity } = options;
  if ((identityFile === undefined) === (askIdentity !== true)) {
    throw usage('Give --identity-file FILE or --ask-identity.');
  }
  if (identityFile === undefined) {
    if (!terminal.interactive)
      throw usage('There is no terminal to ask for the identity on; use --identity-file FILE.');
    return identityIn((await terminal.askSecret('Escrow identity:')).reveal(), 'the terminal');
  }
  try {
    const text =
      identityFile === '-' ? await terminal.readTextFile('-') : await terminal.readPrivateFile(identityFile);
    return identityIn(text, identityFile);
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    if (code === undefined) throw error;
    throw usage(`The identity file ${identityFile} cannot be read: ${code}.`);
  }
}

/** Among the comments that age-keygen writes. */
function identityIn(text: string, source: string): Secret {
  const found = text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => IDENTITY.test(line));
  const [identity] = found;
  if (identity !== undefined && found.length === 1) return new Secret(identity);
  throw usage(
    `${source} must have exactly one line AGE-SECRET-KEY-1...; an identity under a passphrase is opened with age first.`,
  );
}

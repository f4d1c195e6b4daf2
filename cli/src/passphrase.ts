import type { Secret } from '@holdfast/common/secret.ts';
import { parseSetting } from '@holdfast/common/settings.ts';
import type { Command } from 'commander';
import { usage } from './command-error.ts';
import { readSecretFile } from './secret-file.ts';
import type { Terminal } from './terminal.ts';

export const PASSPHRASE_KEY = 'nas.backup.encryption.passphrase';

/** How a passphrase can be given. Never as a value on the command line, where every user of the machine reads it. */
export interface PassphraseOptions {
  readonly passphraseFile?: string;
  readonly askPassphrase?: boolean;
}

/** Adds the options to a command. */
export function withPassphraseOptions(command: Command, meaning: string): Command {
  return command
    .option('--passphrase-file <file>', `${meaning}: the first line of this file, - is standard input`)
    .option('--ask-passphrase', `${meaning}: ask for it on the terminal`);
}

/** The passphrase that the options lead to, undefined when they name none. `repeat` asks twice, for a new one. */
export async function readPassphrase(
  terminal: Terminal,
  options: PassphraseOptions,
  repeat: boolean,
): Promise<Secret | undefined> {
  if (options.passphraseFile !== undefined) {
    if (options.askPassphrase === true) throw usage('Give --passphrase-file or --ask-passphrase, not both.');
    return checked(
      await readSecretFile(terminal, options.passphraseFile, 'passphrase'),
      options.passphraseFile,
    );
  }
  if (options.askPassphrase !== true) return undefined;
  if (!terminal.interactive) {
    throw usage('There is no terminal to ask for the passphrase on; use --passphrase-file FILE.');
  }
  const secret = checked(await terminal.askSecret('Passphrase:'), 'the terminal');
  if (repeat && (await terminal.askSecret('The same again:')).reveal() !== secret.reveal()) {
    throw usage('The two passphrases differ.');
  }
  return secret;
}

function checked(secret: Secret, source: string): Secret {
  if (secret.reveal() === '') throw usage(`The passphrase from ${source} is empty.`);
  parseSetting(PASSPHRASE_KEY, secret.reveal());
  return secret;
}

import type { Secret } from '@holdfast/common/secret.ts';
import type { RepositoryCredentials } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Command } from 'commander';
import { usage } from './command-error.ts';
import { readSecretFile } from './secret-file.ts';
import type { Terminal } from './terminal.ts';

/** How credentials can be given. The password never as a value on the command line. */
export interface CredentialsOptions {
  readonly username?: string;
  readonly domain?: string;
  readonly passwordFile?: string;
  readonly askPassword?: boolean;
}

/** Adds the options to a command. */
export function withCredentialsOptions(command: Command): Command {
  return command
    .option('--username <name>', 'the user of a CIFS server, or the Ceph client without "client."')
    .option('--domain <name>', "the user's domain, for CIFS")
    .option(
      '--password-file <file>',
      'password or Ceph key: the first line of this file, - is standard input',
    )
    .option('--ask-password', 'ask for it on the terminal');
}

/** The credentials that the options lead to, undefined when they name none. */
export async function readCredentials(
  terminal: Terminal,
  options: CredentialsOptions,
): Promise<RepositoryCredentials | undefined> {
  const password = await readPassword(terminal, options);
  if (options.username === undefined) {
    if (password === undefined && options.domain === undefined) return undefined;
    throw usage('A password or a domain goes with --username NAME.');
  }
  if (password === undefined) throw usage('Give the password with --password-file FILE or --ask-password.');
  return { username: options.username, password: password.reveal(), domain: options.domain ?? '' };
}

async function readPassword(terminal: Terminal, options: CredentialsOptions): Promise<Secret | undefined> {
  if (options.passwordFile !== undefined) {
    if (options.askPassword === true) throw usage('Give --password-file or --ask-password, not both.');
    return readSecretFile(terminal, options.passwordFile, 'password');
  }
  if (options.askPassword !== true) return undefined;
  if (!terminal.interactive) {
    throw usage('There is no terminal to ask for the password on; use --password-file FILE.');
  }
  return terminal.askSecret('Password:');
}

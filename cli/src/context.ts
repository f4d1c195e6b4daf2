import { randomUUID } from 'node:crypto';
import type { Command } from 'commander';
import { parseAddress } from '@holdfast/common/address.ts';
import { jsonLine } from './format/text.ts';
import { createPaint, type Paint } from './format/paint.ts';
import { readCertificates } from '@holdfast/common/identity/certificates.ts';
import { openSession, type Session } from './session.ts';
import type { LocalParts } from './standalone/parts.ts';
import type { Terminal } from './terminal.ts';

/** Where the controller of a host listens when nobody says otherwise. */
export const DEFAULT_CONTROLLER = 'unix:///run/holdfast/controller.sock';

/** What every command is given. */
export interface Context {
  readonly terminal: Terminal;
  /** What few commands need, loaded when they run. */
  readonly loadParts: () => Promise<LocalParts>;
}

/** What a command has once the command line is read. */
export interface Running {
  readonly terminal: Terminal;
  readonly session: Session;
  readonly json: boolean;
  readonly paint: Paint;
  /** Prints a result: an object as a line of JSON, or lines for people. */
  readonly print: (object: unknown, lines: () => readonly string[]) => void;
}

interface GlobalOptions {
  readonly controller?: string;
  readonly tlsDirectory?: string;
  readonly json?: boolean;
  readonly color?: boolean;
}

/** Runs a command with a session, which is closed whatever happens. */
export async function withSession(
  context: Context,
  command: Command,
  run: (running: Running) => Promise<void>,
): Promise<void> {
  const { terminal } = context;
  const options = command.optsWithGlobals<GlobalOptions>();
  const address = parseAddress(
    options.controller ?? (terminal.environment['HOLDFAST_CONTROLLER'] || DEFAULT_CONTROLLER),
  );
  const tlsDirectory = options.tlsDirectory ?? (terminal.environment['HOLDFAST_TLS_DIRECTORY'] || undefined);
  const certificates =
    address.kind === 'tcp' && tlsDirectory !== undefined ? await readCertificates(tlsDirectory) : undefined;
  const session = openSession(address, randomUUID(), certificates);
  const json = options.json === true;
  try {
    await run({
      terminal,
      session,
      json,
      paint: createPaint(useColor(terminal, options)),
      print: (object, lines) => {
        for (const line of json ? [jsonLine(object)] : lines()) terminal.out.write(`${line}\n`);
      },
    });
  } finally {
    session.close();
  }
}

/** https://no-color.org: any value but the empty one turns colours off. */
export function useColor(terminal: Terminal, options: { readonly color?: boolean }): boolean {
  return (
    terminal.out.isTerminal &&
    options.color !== false &&
    (terminal.environment['NO_COLOR'] ?? '') === '' &&
    terminal.environment['TERM'] !== 'dumb'
  );
}

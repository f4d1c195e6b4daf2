import { randomUUID } from 'node:crypto';
import { resolve } from 'node:path';
import { grpcTarget, parseAddress, type Address } from '@holdfast/common/address.ts';
import type { Command } from 'commander';
import { usage } from '../command-error.ts';
import type { Context } from '../context.ts';
import { jsonLine, safe } from '../format/text.ts';
import { collect } from '../option-values.ts';
import { openSession } from '../session.ts';
import type { Closable } from '../standalone/parts.ts';
import { registerFleet, unless, type Fleet, type NamedPath } from '../standalone/register.ts';
import { openStateDirectory } from '../standalone/state-directory.ts';
import type { Terminal } from '../terminal.ts';

interface StandaloneOptions {
  readonly stateDirectory: string;
  readonly zone: string;
  readonly hostName?: string;
  readonly repository?: readonly string[];
  readonly listen?: string;
  readonly libvirtUri: string;
  readonly scratchDirectory?: string;
}

/** Adds `standalone`: controller and agent in one process, for one machine. */
export function addStandalone(program: Command, context: Context): void {
  const command = program
    .command('standalone')
    .summary('run controller and agent in one process, for one machine')
    .description(
      'Runs controller and agent in one process, for one machine, until SIGINT or SIGTERM. ' +
        'Zone, host and repositories are made when they are missing. ' +
        'Backups that run when it stops go on in processes of their own, and are found again when it starts.',
    )
    .requiredOption('--state-directory <directory>', 'where everything is kept; made when it is missing')
    .requiredOption('--zone <zone>', 'the zone of this machine')
    .option('--host-name <name>', "the name of this host; the machine's when left out")
    .option('--repository <name=path>', 'a directory for backups; may be repeated', collect)
    .option('--listen <address>', 'where the controller listens; a socket in the state directory otherwise')
    .option('--libvirt-uri <uri>', 'which libvirt', 'qemu:///system')
    .option('--scratch-directory <directory>', 'local space for what guests overwrite during a backup')
    .action((options: StandaloneOptions) =>
      standalone(context, options, command.optsWithGlobals<{ readonly json?: boolean }>().json === true),
    );
}

async function standalone(
  { terminal, loadParts }: Context,
  options: StandaloneOptions,
  json: boolean,
): Promise<void> {
  const repositories = (options.repository ?? []).map(parseNamedPath);
  const state = await openStateDirectory(resolve(options.stateDirectory));
  const hostName = options.hostName ?? terminal.hostName;
  const agentAddress = parseAddress(`unix://${state.agentSocket}`);
  const controllerAddress = parseAddress(options.listen ?? `unix://${state.controllerSocket}`);

  // Before anything is started: an early interrupt must stop what was started by then.
  const interrupted = Promise.withResolvers<undefined>();
  const stopListening = terminal.onInterrupt(() => {
    interrupted.resolve(undefined);
  });
  const running: Closable[] = [];
  try {
    const { createLogger, startAgent, startController, ...masterKey } = await loadParts();
    await unless('TARGET_EXISTS', masterKey.createMasterKey(state.masterKeyFile));
    const logFormat = json || !terminal.err.isTerminal ? 'json' : 'pretty';
    const logger = createLogger({ level: 'info', format: logFormat });
    const agent = await startAgent({
      listen: [agentAddress],
      zone: options.zone,
      hostName,
      libvirtUri: options.libvirtUri,
      stateDirectory: state.agent,
      runtimeDirectory: state.runtime,
      scratchDirectory: options.scratchDirectory ?? state.scratch,
      logger: logger.child({ service: 'agent' }),
      logFormat,
      logLevel: 'info',
    });
    running.push(agent);
    const controller = await startController({
      listen: [controllerAddress],
      state: { kind: 'sqlite', directory: state.controller },
      masterKey: await masterKey.readMasterKey(state.masterKeyFile),
      logger: logger.child({ service: 'controller' }),
    });
    running.push(controller);
    const address = controller.addresses[0] ?? controllerAddress;
    await register(address, { zone: options.zone, hostName, agent: agentAddress, repositories });
    greet(terminal, json, address);
    await interrupted.promise;
    terminal.err.write(farewell(json));
  } finally {
    stopListening();
    // The controller first: it must not see its agent vanish.
    for (const service of running.reverse()) await service.close();
  }
}

async function register(address: Address, fleet: Fleet): Promise<void> {
  const session = openSession(address, randomUUID());
  try {
    await registerFleet(session, fleet);
  } finally {
    session.close();
  }
}

/** `NAME=PATH`; the path is made absolute. */
export function parseNamedPath(text: string): NamedPath {
  const at = text.indexOf('=');
  if (at <= 0 || at === text.length - 1) throw usage(`--repository takes NAME=PATH, not ${safe(text)}.`);
  return { name: text.slice(0, at), path: resolve(text.slice(at + 1)) };
}

function greet(terminal: Terminal, json: boolean, address: Address): void {
  const target = grpcTarget(address);
  const words = `Ready. In another terminal: holdfast --controller ${target} list`;
  terminal.out.write(`${json ? jsonLine({ ready: true, controller: target }) : words}\n`);
}

function farewell(json: boolean): string {
  const words = 'Stopping. Backups that are running go on, and are found again at the next start.';
  return `${json ? jsonLine({ notice: words }) : words}\n`;
}

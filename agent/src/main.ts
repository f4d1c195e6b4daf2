import { hostname } from 'node:os';
import { join } from 'node:path';
import { Command, Option } from 'commander';
import { parseAddress } from '@holdfast/common/address.ts';
import { frontOptions, withFrontOptions, type GivenFrontOptions } from '@holdfast/common/frontOptions.ts';
import { createLogger, type LoggerOptions } from '@holdfast/common/logger.ts';
import { serviceManager } from '@holdfast/common/serviceManager.ts';
import { version } from '@holdfast/common/version.ts';
import { startAgent, type RunningAgent } from './agent.ts';

const program = withFrontOptions(new Command('holdfast-agent'))
  .description('Backs up the domains of this host for the controller of its zone.')
  .version(version)
  .requiredOption('--zone <name>', 'the zone that this host belongs to')
  .option('--host-name <name>', 'the name of this host', hostname())
  .option(
    '--listen <address...>',
    'unix:///PATH or HOST:PORT, which without --tls-directory must be loopback; may be repeated',
    ['unix:///run/holdfast/agent.sock'],
  )
  .option('--libvirt-uri <uri>', 'how to reach libvirt', 'qemu:///system')
  .option('--state-directory <path>', "the jobs' journals, on local disk", '/var/lib/holdfast/agent')
  .option('--runtime-directory <path>', 'sockets and pipes, on tmpfs', '/run/holdfast/agent')
  .option(
    '--scratch-directory <path>',
    'what guests overwrite meanwhile, on local disk',
    '/var/lib/holdfast/scratch',
  )
  .addOption(new Option('--log-format <format>').choices(['json', 'pretty']).default('json'))
  .addOption(new Option('--log-level <level>').choices(['debug', 'info', 'warn', 'error']).default('info'))
  .parse();

const options = program.opts<
  GivenFrontOptions & {
    zone: string;
    hostName: string;
    listen: readonly string[];
    libvirtUri: string;
    stateDirectory: string;
    runtimeDirectory: string;
    scratchDirectory: string;
    logFormat: LoggerOptions['format'];
    logLevel: LoggerOptions['level'];
  }
>();

// A runner and its helper start in half the time when Node keeps what it made of their sources (nodejs.org/api/module.html).
process.env['NODE_COMPILE_CACHE'] ??= join(options.stateDirectory, 'compile-cache');

const logger = createLogger({ level: options.logLevel, format: options.logFormat }, { service: 'agent' });
const manager = serviceManager(logger);
const agent = await start().catch((error: unknown) => {
  logger.error('the agent could not start', { error });
  process.exit(1);
});
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    logger.info('stopping; running jobs go on', { signal });
    void Promise.all([manager.stopping(), agent.close()]).then(() => process.exit(0));
  });
}
await manager.ready();

async function start(): Promise<RunningAgent> {
  const listen = options.listen.map(parseAddress);
  return await startAgent({ ...options, listen, front: frontOptions(options), logger });
}

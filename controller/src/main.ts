import { Command, Option } from 'commander';
import { parseAddress } from '@holdfast/common/address.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { frontOptions, withFrontOptions, type GivenFrontOptions } from '@holdfast/common/frontOptions.ts';
import { createLogger, type Logger, type LoggerOptions } from '@holdfast/common/logger.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { serviceManager } from '@holdfast/common/serviceManager.ts';
import { version } from '@holdfast/common/version.ts';
import { startController } from './controller.ts';
import { readDatabaseUrl } from './database-url.ts';
import { createMasterKey, readMasterKey, readMasterKeyFile } from './master-key.ts';
import { reseal } from './store/reseal.ts';
import type { StatePlace } from './store/store.ts';

/** Exit codes: 0 after a wanted stop, 1 when something failed, 2 when it was started wrongly. */
const EXIT_FAILED = 1;
const EXIT_MISUSED = 2;

interface StateOptions {
  readonly stateDirectory: string;
  readonly databaseUrlFile?: string;
  readonly masterKeyFile?: string;
}

interface ResealOptions extends StateOptions {
  readonly newMasterKeyFile: string;
}

interface Options extends GivenFrontOptions, StateOptions {
  readonly listen: readonly string[];
  readonly createMasterKey?: string;
  readonly logFormat: LoggerOptions['format'];
  readonly logLevel: LoggerOptions['level'];
}

const command = withStateOptions(withFrontOptions(new Command('holdfast-controller')))
  .description('Takes backup requests for the hosts of all zones and steers their agents.')
  .version(version)
  .option(
    '--listen <address...>',
    'unix:///PATH or HOST:PORT, which without --tls-directory must be loopback; may be repeated',
    ['unix:///run/holdfast/controller.sock'],
  )
  .option('--create-master-key <file>', 'make a new master key in a new file, and exit')
  .addOption(new Option('--log-format <format>').choices(['json', 'pretty']).default('json'))
  .addOption(new Option('--log-level <level>').choices(['debug', 'info', 'warn', 'error']).default('info'))
  .enablePositionalOptions()
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : EXIT_MISUSED))
  .action(async (options: Options) => {
    const logger = createLogger(
      { level: options.logLevel, format: options.logFormat },
      { service: 'controller' },
    );
    try {
      if (options.createMasterKey !== undefined) await createMasterKey(options.createMasterKey);
      else await run(options, logger);
    } catch (error) {
      complain(error, () => {
        logger.error('failed to start', { error });
      });
    }
  });

withStateOptions(command.command('reseal'))
  .description('Puts everything that is sealed in the state under another master key. No controller may run.')
  .requiredOption('--new-master-key-file <file>', 'the master key that takes the place of the present one')
  .action(async (options: ResealOptions) => {
    try {
      const from = await presentMasterKey(options);
      const to = await readMasterKeyFile(options.newMasterKeyFile);
      const count = await reseal(await statePlace(options), from, to);
      process.stdout.write(`${count} values were sealed under the new master key.\n`);
    } catch (error) {
      complain(error, () => {
        process.stderr.write(`holdfast-controller: ${String(error)}\n`);
      });
    }
  });

await command.parseAsync();

function withStateOptions(given: Command): Command {
  return given
    .option('--state-directory <directory>', 'where the state lies', '/var/lib/holdfast/controller')
    .option(
      '--database-url-file <file>',
      'keep the state in the PostgreSQL database whose URL is in this file (or in HOLDFAST_DATABASE_URL) instead',
    )
    .option('--master-key-file <file>', 'the key under which stored secrets are sealed');
}

function complain(error: unknown, ofBug: () => void): void {
  if (error instanceof HoldfastError) process.stderr.write(`holdfast-controller: ${error.message}\n`);
  else ofBug();
  process.exitCode = error instanceof HoldfastError ? EXIT_MISUSED : EXIT_FAILED;
}

/** The environment is emptied of it, so that nothing that is started has it. */
async function presentMasterKey(given: StateOptions): Promise<Secret> {
  const masterKey = await readMasterKey({
    file: given.masterKeyFile,
    text: process.env['HOLDFAST_MASTER_KEY'],
    credentialsDirectory: process.env['CREDENTIALS_DIRECTORY'],
  });
  delete process.env['HOLDFAST_MASTER_KEY'];
  return masterKey;
}

async function statePlace(given: StateOptions): Promise<StatePlace> {
  const url = await readDatabaseUrl({
    file: given.databaseUrlFile,
    text: process.env['HOLDFAST_DATABASE_URL'],
  });
  delete process.env['HOLDFAST_DATABASE_URL'];
  return url === undefined ? { kind: 'sqlite', directory: given.stateDirectory } : { kind: 'postgres', url };
}

async function run(given: Options, log: Logger): Promise<void> {
  const manager = serviceManager(log);
  const masterKey = await presentMasterKey(given);
  const state = await statePlace(given);
  const controller = await startController({
    listen: given.listen.map(parseAddress),
    front: frontOptions(given),
    state,
    masterKey,
    logger: log,
  });
  const stop = (signal: NodeJS.Signals): void => {
    log.info('stopping', { signal });
    Promise.all([manager.stopping(), controller.close()]).catch((error: unknown) => {
      log.error('failed to stop', { error });
      process.exitCode = EXIT_FAILED;
    });
  };
  process.once('SIGTERM', stop);
  process.once('SIGINT', stop);
  await manager.ready();
}

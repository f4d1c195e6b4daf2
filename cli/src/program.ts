import { version } from '@holdfast/common/version.ts';
import { Command } from 'commander';
import { addBackup } from './commands/backup.ts';
import { addDelete } from './commands/delete.ts';
import { addDoctor } from './commands/doctor.ts';
import { addHost } from './commands/host.ts';
import { addKey } from './commands/key.ts';
import { addList } from './commands/list.ts';
import { addOperations } from './commands/operations.ts';
import { addPki } from './commands/pki.ts';
import { addRepository } from './commands/repository.ts';
import { addRestore } from './commands/restore.ts';
import { addSetting } from './commands/setting.ts';
import { addShow } from './commands/show.ts';
import { addStandalone } from './commands/standalone.ts';
import { addState } from './commands/state.ts';
import { addStats } from './commands/stats.ts';
import { addSteering } from './commands/steer.ts';
import { addVerify } from './commands/verify.ts';
import { addWatch } from './commands/watch.ts';
import { addZone } from './commands/zone.ts';
import { DEFAULT_CONTROLLER, type Context } from './context.ts';
import { exitCodeHelp } from './exit.ts';

/** Everything that can be typed after `holdfast`. */
export function createProgram(context: Context): Command {
  const { terminal } = context;
  const program = new Command('holdfast')
    .description('Backups of virtual machines: taken in one pass, proved, restored.')
    .version(version, '--version')
    .option(
      '--controller <address>',
      `unix:///PATH or HOST:PORT (environment: HOLDFAST_CONTROLLER; default: ${DEFAULT_CONTROLLER})`,
    )
    .option(
      '--tls-directory <directory>',
      'your ca.crt, tls.crt and tls.key, for a HOST:PORT with TLS (environment: HOLDFAST_TLS_DIRECTORY)',
    )
    .option('--json', 'results and events as JSON, one object a line')
    .option('--no-color', 'no colours (environment: NO_COLOR)')
    .addHelpText('after', `\n${exitCodeHelp}`)
    .exitOverride()
    .configureOutput({
      writeOut: (text) => {
        terminal.out.write(text);
      },
      writeErr: (text) => {
        terminal.err.write(text);
      },
      // Errors are printed in one place, whoever found them.
      outputError: () => undefined,
    });

  addBackup(program, context);
  addVerify(program, context);
  addRestore(program, context);
  addDelete(program, context);
  addList(program, context);
  addShow(program, context);
  addOperations(program, context);
  addWatch(program, context);
  addSteering(program, context);
  addZone(program, context);
  addSetting(program, context);
  addHost(program, context);
  addRepository(program, context);
  addKey(program, context);
  addStats(program, context);
  addState(program, context);
  addDoctor(program, context);
  addPki(program, context);
  addStandalone(program, context);
  return program;
}

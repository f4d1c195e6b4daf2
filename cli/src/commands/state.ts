import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import type { Context } from '../context.ts';
import { jsonLine, safe } from '../format/text.ts';

/** Adds `state` with `backup`. */
export function addState(program: Command, context: Context): void {
  const state = program.command('state').description("The controller's own state.");
  addBackup(state, context);
}

function addBackup(parent: Command, { terminal, loadParts }: Context): void {
  const command = parent
    .command('backup')
    .summary("copy the controller's database to a new file")
    .description(
      "Copies the controller's database to a new file, while the controller runs or not. " +
        'Without the master key the copy is of no use: keep that elsewhere, once.',
    )
    .argument('<file>', 'the new file')
    .requiredOption('--state-directory <directory>', "the controller's, or that of `holdfast standalone`")
    .action(async (file: string, options: { readonly stateDirectory: string }) => {
      const { copySqlite } = await loadParts();
      const target = resolve(file);
      copySqlite(controllerDirectory(resolve(options.stateDirectory)), target);
      const json = command.optsWithGlobals<{ readonly json?: boolean }>().json === true;
      const words = `The state was copied to ${safe(target)}.`;
      terminal.out.write(`${json ? jsonLine({ file: target }) : words}\n`);
    });
}

/** `standalone` keeps the controller's in a directory of its own state directory. */
function controllerDirectory(directory: string): string {
  const below = join(directory, 'controller');
  return existsSync(below) ? below : directory;
}

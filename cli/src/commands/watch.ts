import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { followOperation } from '../follow/follow.ts';
import { parseSequence } from '../option-values.ts';

/** Adds `watch`: follows an operation that is running, or tells again one that has ended. */
export function addWatch(program: Command, context: Context): void {
  const command = program
    .command('watch')
    .summary('follow an operation')
    .description('Follows an operation to its end. The exit code is that of the operation.')
    .argument('<operation>', 'the id of the operation')
    .option('--after <sequence>', 'only events after this one', parseSequence)
    .action((operationId: string, options: { readonly after?: bigint }) =>
      withSession(context, command, (running) => followOperation(running, operationId, options.after)),
    );
}

import {
  Operation,
  operationKindToJSON,
  operationStateToJSON,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Command } from 'commander';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { pages } from '../pages.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

interface OperationsOptions {
  readonly zone?: string;
  readonly active?: true;
}

/** Adds `operations`: running and past ones, newest first. */
export function addOperations(program: Command, context: Context): void {
  const command = program
    .command('operations')
    .summary('list operations')
    .description('Lists operations, newest first; those that failed with their reasons.')
    .option('--zone <zone>', 'only those of this zone')
    .option('--active', 'only those that have not ended')
    .action((options: OperationsOptions) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const operations: Operation[] = [];
        for await (const page of pages((pageToken) =>
          call(session, session.operations.listOperations.bind(session.operations), {
            zone: options.zone ?? '',
            pageSize: 0,
            pageToken,
            activeOnly: options.active ?? false,
          }),
        )) {
          operations.push(...page.operations);
        }
        printList(running, Operation, operations, operationTable);
      }),
    );
}

function operationTable(operations: readonly Operation[]): string[] {
  return table(
    [
      { title: 'OPERATION' },
      { title: 'KIND' },
      { title: 'STATE' },
      { title: 'DOMAIN' },
      { title: 'ZONE' },
      { title: 'HOST' },
      { title: 'BACKUP' },
      { title: 'STARTED' },
      { title: 'ENDED' },
      { title: 'WHY' },
    ],
    operations.map((operation) => [
      operation.id,
      word(operationKindToJSON(operation.kind), 'OPERATION_KIND_'),
      word(operationStateToJSON(operation.state), 'OPERATION_STATE_'),
      operation.domainName,
      operation.zone,
      operation.host,
      operation.backupId,
      formatTime(operation.createTime),
      formatTime(operation.endTime),
      operation.error?.message ?? '',
    ]),
  );
}

/** `OPERATION_KIND_TAKE_BACKUP` in words: `take backup`. */
function word(constant: string, prefix: string): string {
  return constant.replace(prefix, '').replaceAll('_', ' ').toLowerCase();
}

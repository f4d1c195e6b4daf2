import { Stage, stageToJSON } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  Operation,
  OperationOrigin,
  OperationState,
  operationKindToJSON,
  operationStateFromJSON,
  operationStateToJSON,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Command } from 'commander';
import { usage } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { formatTime } from '../format/duration.ts';
import { table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { collect } from '../option-values.ts';
import { queuedLine } from '../progress/render.ts';
import { pages } from '../pages.ts';
import { printList } from '../print.ts';
import { call } from '../session.ts';

interface OperationsOptions {
  readonly zone?: string;
  readonly host?: string;
  readonly domain?: string;
  readonly state?: readonly string[];
  readonly since?: string;
  readonly before?: string;
  readonly active?: true;
}

/** Adds `operations`: running and past ones, newest first. */
export function addOperations(program: Command, context: Context): void {
  const command = program
    .command('operations')
    .summary('list operations')
    .description('Lists operations, newest first; those that failed with their reasons.')
    .option('--zone <zone>', 'only those of this zone')
    .option('--host <host>', 'only those on this host')
    .option('--domain <domain>', 'only those of this domain, by name or UUID')
    .option('--state <state>', 'only those in this state, such as failed; may be repeated', collect)
    .option('--since <time>', 'only those started then or later, such as 2026-11-25 or 2026-11-25T08:00:00Z')
    .option('--before <time>', 'only those started before then')
    .option('--active', 'only those that have not ended')
    .action((options: OperationsOptions) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const filter = {
          zone: options.zone ?? '',
          host: options.host ?? '',
          domain: options.domain ?? '',
          states: (options.state ?? []).map(parseState),
          createTimeFrom: parseTime(options.since),
          createTimeBefore: parseTime(options.before),
          activeOnly: options.active ?? false,
        };
        const operations: Operation[] = [];
        for await (const page of pages((pageToken) =>
          call(session, session.operations.listOperations.bind(session.operations), {
            ...filter,
            pageSize: 0,
            pageToken,
          }),
        )) {
          operations.push(...page.operations);
        }
        printList(running, Operation, operations, operationTable);
      }),
    );
}

function parseState(text: string): OperationState {
  const state = operationStateFromJSON(`OPERATION_STATE_${text.toUpperCase()}`);
  if (state > OperationState.OPERATION_STATE_UNSPECIFIED) return state;
  throw usage(`There is no state ${safe(text)}; there are ${stateNames().join(', ')}.`);
}

function stateNames(): string[] {
  return Object.values(OperationState)
    .filter((state) => state > OperationState.OPERATION_STATE_UNSPECIFIED)
    .map((state) => word(operationStateToJSON(state), 'OPERATION_STATE_'));
}

/** ISO 8601; without an offset UTC, as the times that are printed. */
function parseTime(text: string | undefined): Date | undefined {
  if (text === undefined) return undefined;
  const isWhole = /^\d{4}-\d\d-\d\d(T\d\d:\d\d(:\d\d(\.\d+)?)?(Z|[+-]\d\d:\d\d)?)?$/.exec(text);
  const time = new Date(isWhole?.[1] !== undefined && isWhole[4] === undefined ? `${text}Z` : text);
  if (isWhole !== null && !Number.isNaN(time.getTime())) return time;
  throw usage(`${safe(text)} is no time such as 2026-11-25 or 2026-11-25T08:00:00Z.`);
}

/** Why it failed, and where when that is known, or what it waits for. */
function why(operation: Operation): string {
  const { error, failedStage, failedDisk } = operation;
  if (error === undefined) return waiting(operation);
  const stage = failedStage === Stage.STAGE_UNSPECIFIED ? '' : word(stageToJSON(failedStage), 'STAGE_');
  const place = [stage, failedDisk].filter((part) => part !== '').join(' ');
  return place === '' ? error.message : `${place}: ${error.message}`;
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
      kindOf(operation),
      word(operationStateToJSON(operation.state), 'OPERATION_STATE_'),
      operation.domainName,
      operation.zone,
      operation.host,
      operation.backupId,
      formatTime(operation.createTime),
      formatTime(operation.endTime),
      why(operation),
    ]),
  );
}

function kindOf({ kind, origin }: Operation): string {
  const name = word(operationKindToJSON(kind), 'OPERATION_KIND_');
  return origin === OperationOrigin.OPERATION_ORIGIN_SCRUB ? `${name} (scrub)` : name;
}

function waiting({ repository, stalledSince, queued }: Operation): string {
  if (queued !== undefined) return queuedLine(queued);
  if (stalledSince === undefined) return '';
  return `Repository ${repository} has not answered since ${formatTime(stalledSince)}; it is waited for.`;
}

/** `OPERATION_KIND_TAKE_BACKUP` in words: `take backup`. */
function word(constant: string, prefix: string): string {
  return constant.replace(prefix, '').replaceAll('_', ' ').toLowerCase();
}

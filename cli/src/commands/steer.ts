import { Operation, type UpdateOperationRequest } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Command } from 'commander';
import { withSession, type Context, type Running } from '../context.ts';
import { formatLimit } from '../format/bytes.ts';
import { safe } from '../format/text.ts';
import { parseMibps } from '../option-values.ts';
import { call } from '../session.ts';

/** Adds `set-bandwidth`, `pause`, `resume` and `cancel`. */
export function addSteering(program: Command, context: Context): void {
  addSetBandwidth(program, context);
  addPausing(program, context, 'pause', true);
  addPausing(program, context, 'resume', false);
  addCancel(program, context);
}

function addSetBandwidth(program: Command, context: Context): void {
  const command = program
    .command('set-bandwidth')
    .summary('change the limit of a running operation')
    .description('Changes the limit of a running operation at once.')
    .argument('<operation>', 'the id of the operation')
    .argument('<MiBps>', 'MiB of data a second; 0 lifts the limit', parseMibps)
    .action((operationId: string, bandwidthLimitMibps: bigint) =>
      withSession(context, command, async (running) => {
        const change = { $case: 'bandwidthLimitMibps', value: bandwidthLimitMibps } as const;
        await update(running, { operationId, change }, `limit ${formatLimit(bandwidthLimitMibps)}`);
      }),
    );
}

function addPausing(program: Command, context: Context, name: 'pause' | 'resume', paused: boolean): void {
  const command = program
    .command(name)
    .summary(`${name} an operation`)
    .description(
      paused
        ? 'Pauses a running operation. A running guest goes on; its writes are kept in scratch space meanwhile.'
        : 'Lets a paused operation go on.',
    )
    .argument('<operation>', 'the id of the operation')
    .action((operationId: string) =>
      withSession(context, command, (running) =>
        update(running, { operationId, change: { $case: 'paused', value: paused } }, name),
      ),
    );
}

function addCancel(program: Command, context: Context): void {
  const command = program
    .command('cancel')
    .summary('cancel an operation')
    .description('Cancels an operation; what it had made is removed. One that has ended stays as it is.')
    .argument('<operation>', 'the id of the operation')
    .action((operationId: string) =>
      withSession(context, command, async (running) => {
        const { session } = running;
        const { operation } = await call(
          session,
          session.operations.cancelOperation.bind(session.operations),
          {
            operationId,
          },
        );
        passedOn(running, operation, operationId, 'cancel');
      }),
    );
}

async function update(running: Running, request: UpdateOperationRequest, wish: string): Promise<void> {
  const { session } = running;
  const { operation } = await call(
    session,
    session.operations.updateOperation.bind(session.operations),
    request,
  );
  passedOn(running, operation, request.operationId, wish);
}

/** The answer says that the wish was passed on; the operation's events say when it took. */
function passedOn(running: Running, operation: Operation | undefined, id: string, wish: string): void {
  running.print(operation === undefined ? { id } : Operation.toJSON(operation), () => [
    `Passed on to operation ${safe(id)}: ${wish}.`,
  ]);
}

import { Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Running } from '../context.ts';
import { comeBack, followOperation } from '../follow/follow.ts';
import { jsonLine, safe } from '../format/text.ts';

/** Follows an operation that was just started, or with `detach` says only that it was. */
export async function started(
  running: Running,
  operation: Operation | undefined,
  detach: boolean,
): Promise<void> {
  if (operation === undefined) throw new Error('The controller started no operation and did not say why.');
  if (detach) {
    running.print(Operation.toJSON(operation), () => [
      `Operation ${safe(operation.id)} was started. ${comeBack(running, operation.id)}`,
    ]);
    return;
  }
  announce(running, operation);
  await followOperation(running, operation.id);
}

/** On stderr: on stdout a program expects events and nothing else. */
function announce({ terminal, json }: Running, { id, domainName }: Operation): void {
  const words = `Operation ${safe(id)}${domainName === '' ? '' : ` on domain ${safe(domainName)}`}`;
  terminal.err.write(`${json ? jsonLine({ notice: words, operationId: id }) : words}\n`);
}

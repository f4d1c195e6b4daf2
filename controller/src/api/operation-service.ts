import { serverStream, unary } from '@holdfast/common/call.ts';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import {
  OperationServiceService,
  type OperationServiceServer,
  type WatchOperationResponse,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import type { Agents } from '../fleet/agents.ts';
import type { Hosts } from '../fleet/hosts.ts';
import type { Elsewhere } from '../operations/elsewhere.ts';
import type { Journal } from '../operations/journal.ts';
import type { Live } from '../operations/live.ts';
import { cancelOperation, updateOperation } from '../operations/steer.ts';
import { watchOperation } from '../operations/watch.ts';

export function operationService(parts: {
  journal: Journal;
  live: Live;
  elsewhere: Elsewhere;
  hosts: Hosts;
  agents: Agents;
  now: () => Date;
  stopping: AbortSignal;
  logger: Logger;
}): Service {
  const { journal, logger } = parts;
  const implementation: OperationServiceServer = {
    getOperation: unary(logger, async ({ operationId }) => ({ operation: await journal.find(operationId) })),
    listOperations: unary(logger, (request) => journal.list(request)),
    watchOperation: serverStream(
      logger,
      async function* ({ operationId, afterSequence }, { signal }): AsyncGenerator<WatchOperationResponse> {
        let resumeAfterSequence = afterSequence;
        try {
          for await (const event of watchOperation(parts, operationId, afterSequence, signal)) {
            resumeAfterSequence = event.sequence;
            yield { event, goodbye: undefined };
          }
        } catch (error) {
          if (error instanceof HoldfastError && error.reason === 'SHUTTING_DOWN')
            yield { event: undefined, goodbye: { resumeAfterSequence } };
          throw error;
        }
      },
    ),
    updateOperation: unary(logger, async (request, { logger: log }) => {
      const operation = await updateOperation(parts, request);
      log.info('operation steered', { operationId: operation.id, change: request.change?.$case });
      return { operation };
    }),
    cancelOperation: unary(logger, async ({ operationId }, { logger: log }) => {
      const operation = await cancelOperation(parts, operationId);
      log.info('cancel wanted', { operationId });
      return { operation };
    }),
  };
  return { name: 'holdfast.v1.OperationService', definition: OperationServiceService, implementation };
}

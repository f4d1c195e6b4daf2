import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import {
  LeftoverServiceService,
  LeftoverState,
  type LeftoverServiceServer,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { Leftovers } from '../leftovers/leftovers.ts';

export function leftoverService({ leftovers, logger }: { leftovers: Leftovers; logger: Logger }): Service {
  const implementation: LeftoverServiceServer = {
    listLeftovers: unary(logger, (request, { correlationId }) => leftovers.list(request, correlationId)),
    removeLeftovers: unary(logger, async (request, { correlationId, logger: log }) => {
      const answer = await leftovers.remove(request, correlationId);
      const count = (state: LeftoverState): number =>
        answer.leftovers.filter((each) => each.state === state).length;
      log.info('leftovers removed', {
        removed: count(LeftoverState.LEFTOVER_STATE_REMOVED),
        failed: count(LeftoverState.LEFTOVER_STATE_FAILED),
      });
      return answer;
    }),
  };
  return { name: 'holdfast.v1.LeftoverService', definition: LeftoverServiceService, implementation };
}

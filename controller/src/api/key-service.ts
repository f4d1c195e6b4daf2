import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { KeyServiceService, type KeyServiceServer } from '@holdfast/proto/holdfast/v1/key.ts';
import type { Keys } from '../keys/keys.ts';
import type { Zones } from '../zones/zones.ts';

export function keyService(parts: { keys: Keys; zones: Zones; logger: Logger }): Service {
  const { keys, zones, logger } = parts;
  const implementation: KeyServiceServer = {
    listKeys: unary(logger, async ({ zone }) => {
      await zones.require(zone);
      return { keys: await keys.list(zone) };
    }),
  };
  return { name: 'holdfast.v1.KeyService', definition: KeyServiceService, implementation };
}

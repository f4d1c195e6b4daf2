import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { KeyServiceService, type KeyServiceServer } from '@holdfast/proto/holdfast/v1/key.ts';
import { importKeys, type ImportParts } from '../keys/import.ts';
import { listKeys } from '../keys/list.ts';
import { recoverKeys } from '../keys/recover.ts';
import { rotateKey } from '../keys/rotate.ts';
import type { Submit } from '../operations/submit.ts';
import type { Zones } from '../zones/zones.ts';

export function keyService(
  parts: ImportParts & { readonly zones: Zones; readonly submit: Submit; readonly logger: Logger },
): Service {
  const { store, zones, logger } = parts;
  const implementation: KeyServiceServer = {
    listKeys: unary(logger, async ({ zone }) => {
      await zones.require(zone);
      return { keys: await listKeys(store.db, zone) };
    }),
    rotateKey: unary(logger, async (request, { correlationId, logger: log }) => {
      await zones.require(request.zone);
      const rotated = await rotateKey(parts, request, correlationId);
      log.info('key rotated', { zone: request.zone, key: rotated.keyId, operationId: rotated.operation.id });
      return rotated;
    }),
    importKeys: unary(logger, async (request, { correlationId, logger: log }) => {
      await zones.require(request.zone);
      const answer = await importKeys(parts, request, correlationId);
      log.info('keys imported', { zone: request.zone, keys: answer.keys.map(({ id }) => id) });
      return answer;
    }),
    recoverKeys: unary(logger, async (request, { correlationId, logger: log }) => {
      await zones.require(request.zone);
      const answer = await recoverKeys(parts, request, correlationId);
      log.info('keys recovered', {
        zone: request.zone,
        recovered: Number(answer.recoveredCount),
        missing: Number(answer.missingCount),
      });
      return answer;
    }),
  };
  return { name: 'holdfast.v1.KeyService', definition: KeyServiceService, implementation };
}

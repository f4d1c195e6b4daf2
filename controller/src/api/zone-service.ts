import { unary } from '@holdfast/common/call.ts';
import type { Logger } from '@holdfast/common/logger.ts';
import type { Service } from '@holdfast/common/server.ts';
import { ZoneServiceService, type ZoneServiceServer } from '@holdfast/proto/holdfast/v1/zone.ts';
import { describeDefinitions, describeSettings } from '../zones/resolve.ts';
import type { Settings } from '../zones/settings.ts';
import type { Zones } from '../zones/zones.ts';

/** @param parts.onChange told after settings have changed */
export function zoneService(parts: {
  readonly zones: Zones;
  readonly settings: Settings;
  readonly onChange: () => void;
  readonly logger: Logger;
}): Service {
  const { zones, settings, onChange, logger } = parts;
  const implementation: ZoneServiceServer = {
    createZone: unary(logger, async ({ name }, { logger: log }) => {
      const zone = await zones.create(name);
      log.info('zone created', { zone: zone.name });
      return { zone };
    }),
    listZones: unary(logger, async () => ({ zones: await zones.list() })),
    setSettings: unary(logger, async ({ zone, values, clear }, { logger: log, caller, correlationId }) => {
      const resolved = await settings.change(zone, { values, clear, author: { caller, correlationId } });
      onChange();
      log.info('settings changed', { zone, set: Object.keys(values), clear, caller });
      return { settings: describeSettings(resolved) };
    }),
    getSettings: unary(logger, async ({ zone }) => ({
      settings: describeSettings(await settings.resolve(zone)),
    })),
    listSettingDefinitions: unary(logger, () => Promise.resolve({ definitions: describeDefinitions() })),
    listSettingChanges: unary(logger, (request) => settings.changes(request)),
  };
  return { name: 'holdfast.v1.ZoneService', definition: ZoneServiceService, implementation };
}

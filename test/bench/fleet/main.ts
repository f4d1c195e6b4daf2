import { parseArgs } from 'node:util';
import { measureCatalogue } from './catalogue.ts';
import { measureFleet } from './fleet.ts';

/** A quick look: node test/bench/fleet/main.ts --agents 100 --seconds 30, or --backups 100000 --store postgres. */
const { values } = parseArgs({
  options: {
    agents: { type: 'string' },
    seconds: { type: 'string', default: '30' },
    backups: { type: 'string' },
    store: { type: 'string', default: 'sqlite' },
  },
});
if (values.agents !== undefined) {
  const fleet = { agents: Number(values.agents), backupsPerAgent: 10, seconds: Number(values.seconds) };
  console.log(await measureFleet(fleet));
}
if (values.backups !== undefined) {
  const kind = values.store === 'postgres' ? 'postgres' : 'sqlite';
  console.log(await measureCatalogue(kind, [Number(values.backups)]));
}

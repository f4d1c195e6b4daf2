import { parseArgs } from 'node:util';
import { measureCatalogue } from './catalogue.ts';
import { measureFleet } from './fleet.ts';

// What it started ends with it.
for (const name of ['SIGINT', 'SIGTERM'] as const) process.once(name, () => process.exit(130));

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

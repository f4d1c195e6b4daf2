import type { Figure } from '../figures.ts';
import { measureCatalogue } from './catalogue.ts';
import { measureFleet } from './fleet.ts';

const LOADS_PERCENT = [10, 50, 100];
const AGENTS = 1_000;
const BACKUPS_PER_AGENT = 10;
const CATALOGUE = 1_000_000;

/** One controller and many agents that move no data, at a part of the load and at all of it. */
export async function fleetFigures(seconds: number): Promise<readonly Figure[]> {
  const runs = [];
  for (const load of LOADS_PERCENT) {
    const agents = part(load, AGENTS);
    const fleet = { agents, backupsPerAgent: BACKUPS_PER_AGENT };
    const run = await measureFleet({ ...fleet, seconds: load === 100 ? seconds : seconds / 5 });
    console.log(`${agents} agents with ${agents * BACKUPS_PER_AGENT} backups:`, run);
    runs.push(run);
  }
  return [
    grown('fleet_event_p99_ms', 'ms', 250, runs, (run) => run.eventP99Ms),
    grown('fleet_rss_mib', 'MiB', 1024, runs, (run) => run.rssMib),
    grown('fleet_rss_growth_mib', 'MiB', 64, runs, (run) => run.rssGrowthMib),
    grown('fleet_events_lost', 'events', 0, runs, (run) => run.lost),
    grown('fleet_controller_cpu_percent', '% of a core', 200, runs, (run) => run.controllerCpuPercent),
    grown('fleet_generator_cpu_percent', '% of a core', 200, runs, (run) => run.generatorCpuPercent),
    grown('fleet_cpu_us_per_event', 'us', 100, runs, (run) => run.cpuMicrosecondsPerEvent),
  ];
}

/** What lists and new backups cost beside a large catalogue. */
export async function catalogueFigures(): Promise<readonly Figure[]> {
  const steps = LOADS_PERCENT.map((load) => part(load, CATALOGUE));
  const sqlite = await measureCatalogue('sqlite', steps);
  console.log('catalogue on SQLite:', sqlite);
  const postgres = await measureCatalogue('postgres', steps);
  console.log('catalogue on PostgreSQL:', postgres);
  return [
    grown('list_page_p99_ms_sqlite', 'ms', 50, sqlite, (run) => run.listPageP99Ms),
    grown('list_page_p99_ms_postgres', 'ms', 50, postgres, (run) => run.listPageP99Ms),
    grown('take_backup_p99_ms_sqlite', 'ms', 50, sqlite, (run) => run.takeBackupP99Ms),
    grown('take_backup_p99_ms_postgres', 'ms', 50, postgres, (run) => run.takeBackupP99Ms),
    grown('zone_statistics_ms_sqlite', 'ms', 1_000, sqlite, (run) => run.zoneStatisticsMs),
    grown('zone_statistics_ms_postgres', 'ms', 1_000, postgres, (run) => run.zoneStatisticsMs),
  ];
}

function part(percent: number, all: number): number {
  return Math.round((all * percent) / 100);
}

function grown<Run>(
  name: string,
  unit: string,
  target: number,
  runs: readonly Run[],
  valueOf: (run: Run) => number,
): Figure {
  const pairs = runs.map(valueOf);
  return { name, value: pairs.at(-1) ?? NaN, unit, pairs, load: LOADS_PERCENT, target };
}

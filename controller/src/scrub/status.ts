import type { ScrubStatus } from '@holdfast/proto/holdfast/v1/statistics.ts';
import { unprovedSinceColumn } from '../catalog/proofs.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import { activeScrubs } from './due.ts';
import { scrubPlan } from './plan.ts';

/** How far the scrubs of a repository are, also where they are off: since when its backups are unproved. */
export async function scrubStatus(
  {
    store: { db },
    settings,
    now,
  }: { readonly store: Store; readonly settings: Settings; readonly now: () => Date },
  { repository, zone }: { readonly repository: string; readonly zone: string },
): Promise<ScrubStatus> {
  const time = now();
  const { enabled, open, level, unprovedBefore } = scrubPlan(await settings.resolve(zone), time);
  const since = unprovedSinceColumn(level);
  const backups = db.selectFrom('backups').where('repository', '=', repository);
  const sound = backups.where('damage_time', 'is', null);
  const oldest = await sound.select(since).orderBy(since).limit(1).executeTakeFirst();
  const due = await sound
    .where(since, '<', unprovedBefore.toISOString())
    .select((of) => of.fn.countAll<number | bigint>().as('count'))
    .executeTakeFirstOrThrow();
  const damaged = await backups
    .where('damage_time', 'is not', null)
    .select((of) => of.fn.countAll<number | bigint>().as('count'))
    .executeTakeFirstOrThrow();
  const { scrub_rest_until: restUntil, scrub_message: message } = await db
    .selectFrom('repositories')
    .select(['scrub_rest_until', 'scrub_message'])
    .where('name', '=', repository)
    .executeTakeFirstOrThrow();
  const rests = restUntil !== null && restUntil > time.toISOString();
  return {
    ...{ enabled, open },
    operationId: (await activeScrubs(db)).find((each) => each.repository === repository)?.id ?? '',
    dueBackups: BigInt(due.count),
    damagedBackups: BigInt(damaged.count),
    unprovedSinceTime: oldest && new Date(oldest[since]),
    restUntilTime: rests ? new Date(restUntil) : undefined,
    restMessage: rests ? message : '',
  };
}

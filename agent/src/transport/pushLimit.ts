import { HoldfastError } from '@holdfast/common/errors.ts';
import { limitPushJob, pushJob, STANDSTILL_BYTES, type PushJob } from '../libvirt/pushBackup.ts';
import type { Virsh } from '../libvirt/virsh.ts';
import type { Steering } from '../jobs/control.ts';
import { inTurn } from '../process/inTurn.ts';

/** The limit of a push backup: libvirt knows one for each disk only, so it is divided among those that still run. */
export interface PushLimit extends Steering {
  /** Begins to steer the jobs, which have just been started. */
  begin(): Promise<void>;
  /**
   * How the disks' jobs stand, those that have ended left out. Divides the limit anew when one has ended.
   *
   * @throws HoldfastError LIMIT_NOT_APPLIED when libvirt did not take a limit and that is to fail.
   */
  look(): Promise<ReadonlyMap<string, PushJob>>;
  /** Whether a pause was asked for since the last call. */
  pausedSince(): boolean;
  /** Takes the sentences about limits that did not take since the last call, by target name. */
  complaints(): ReadonlyMap<string, string>;
}

/** @param enforce `warn` to go on without a limit that did not take; anything else fails the backup */
export function pushLimit(
  virsh: Virsh,
  uuid: string,
  targets: readonly string[],
  enforce: string,
): PushLimit {
  let bytesPerSecond = 0;
  let paused = false;
  let pausedLately = false;
  let running: readonly string[] = [];
  let told = new Map<string, string>();
  /** What libvirt would not take, so that it is not asked again and again. */
  const refused = new Map<string, number>();
  /** What libvirt was told last is what was wished last, also when that changes while a change is under way. */
  const tell = inTurn();

  /** One disk's part of the limit. libvirt cannot pause these jobs; the smallest limit comes to the same. */
  const share = (): number => {
    if (paused) return STANDSTILL_BYTES;
    if (bytesPerSecond === 0) return 0;
    return Math.max(STANDSTILL_BYTES, Math.floor(bytesPerSecond / Math.max(1, running.length)));
  };
  const applyTo = async (target: string): Promise<void> => {
    // Read when it is told, not when it is asked for.
    const wanted = share();
    const inForce = await limitPushJob(virsh, uuid, target, wanted);
    if (inForce === undefined || inForce.limit === wanted) {
      refused.delete(target);
      return;
    }
    const message =
      `The limit of ${wanted} bytes a second for disk ${target} did not take: libvirt says that ` +
      `${inForce.limit === 0 ? 'none' : inForce.limit} is in force. ${inForce.complaint}`;
    if (enforce !== 'warn')
      throw new HoldfastError('LIMIT_NOT_APPLIED', message.trim(), { metadata: { disk: target } });
    refused.set(target, wanted);
    told.set(target, message.trim());
  };
  const apply = async (): Promise<void> => {
    await tell(() => Promise.all(running.map(applyTo)));
  };
  return {
    begin: async () => {
      running = targets;
      if (bytesPerSecond !== 0 || paused) await apply();
    },
    look: () =>
      tell(async () => {
        const found = await Promise.all(
          running.map(async (target) => [target, await pushJob(virsh, uuid, target)] as const),
        );
        const jobs = new Map(
          found.flatMap(([target, job]) => (job === undefined ? [] : [[target, job] as const])),
        );
        running = [...jobs.keys()];
        const wanted = share();
        for (const [target, job] of jobs)
          if (job.limit !== wanted && refused.get(target) !== wanted) await applyTo(target);
        return jobs;
      }),
    pausedSince: () => {
      const lately = pausedLately;
      pausedLately = false;
      return lately;
    },
    complaints: () => {
      const since = told;
      told = new Map();
      return since;
    },
    setLimit: async (wanted) => {
      bytesPerSecond = wanted;
      await apply();
    },
    pause: async () => {
      paused = true;
      pausedLately = true;
      await apply();
    },
    resume: async () => {
      paused = false;
      await apply();
    },
  };
}

import { splitOption } from '@holdfast/common/mountOptions.ts';
import { run, type RunResult } from '../process/run.ts';
import { SAFE_OPTIONS, withDefaults } from './options.ts';
import { MOUNT_DEADLINE_MS, type MountPlan, type MountSource } from './plan.ts';

/**
 * nfs(5). `hard`: with `soft`, writes that the server did not take in time are lost with an error that only the next
 * flush sees; whoever waits here has a deadline of its own and can be killed. `timeo` and `retrans` are the kernel's own
 * for TCP, said so that /etc/nfsmount.conf does not change them. `lookupcache=positive`: what another host has published
 * is seen at once. `retry=0`: mount.nfs would try for two minutes.
 */
const DEFAULTS = [...SAFE_OPTIONS, 'hard', 'timeo=600', 'retrans=2', 'lookupcache=positive', 'retry=0'];

/** The versions that are tried when none is asked for: those with sessions, in which a repeated request is done once. */
const VERSIONS = ['vers=4.2', 'vers=4.1'];

/** An NFS export, by the kernel's client and mount.nfs. */
export function nfsPlan({ address, mountOptions }: MountSource): MountPlan {
  const asked = mountOptions.some((option) => ['vers', 'nfsvers'].includes(splitOption(option)[0]));
  const attempt = (point: string, versions: readonly string[]): Promise<RunResult> => {
    const options = withDefaults([...DEFAULTS, ...versions], mountOptions).join(',');
    return run('mount', ['-t', 'nfs', '-o', options, '--', address, point], {
      deadlineMs: MOUNT_DEADLINE_MS,
    });
  };
  return {
    fileSystems: ['nfs', 'nfs4'],
    mount: async ({ point }) => {
      if (asked) return attempt(point, []);
      const [latest = '', before = ''] = VERSIONS;
      const result = await attempt(point, [latest]);
      // mount.nfs: "Protocol not supported", and "an incorrect mount option" where the kernel lacks the version.
      const isVersion = /protocol not supported|version|incorrect mount option/i.test(result.stderr);
      return result.exitCode !== 0 && isVersion ? attempt(point, [before]) : result;
    },
  };
}

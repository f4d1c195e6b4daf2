import { splitOption } from '@holdfast/common/mountOptions.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { run, type RunResult } from '../process/run.ts';
import { withSecretPipe } from '../process/secretPipe.ts';
import { SAFE_OPTIONS, withDefaults } from './options.ts';
import { MOUNT_DEADLINE_MS, type MountPlan, type MountSource } from './plan.ts';

/**
 * mount.cifs(8). `vers=3`: the highest that the server has, and none below 3.0. `hard`: see nfs.ts. `cache=strict`: the
 * protocol's own rules for what may be kept. `uid`, `gid` and modes: backups are root's alone, whatever the server says.
 * `nobrl`: SMB's byte-range locks bind everybody, and QEMU's locks on an image are advice among its own.
 */
const DEFAULTS = [
  ...SAFE_OPTIONS,
  'vers=3',
  'hard',
  'cache=strict',
  'uid=0',
  'gid=0',
  'file_mode=0600',
  'dir_mode=0700',
  'nobrl',
];

/** An SMB share, by the kernel's client and mount.cifs, which reads user and password from a pipe. */
export function cifsPlan({ address, mountOptions, credentials }: MountSource): MountPlan {
  const options = withDefaults(DEFAULTS, mountOptions);
  const attempt = (point: string, more: readonly string[]): Promise<RunResult> => {
    const all = [...options, ...more].join(',');
    return run('mount', ['-t', 'cifs', '-o', all, '--', address, point], { deadlineMs: MOUNT_DEADLINE_MS });
  };
  return {
    fileSystems: ['cifs', 'smb3'],
    mount: ({ point, directory }) => {
      if (credentials === undefined) {
        const byTicket = mountOptions.some((option) => splitOption(option)[1]?.startsWith('krb5'));
        return attempt(point, byTicket ? [] : ['guest']);
      }
      const { username, password, domain } = credentials;
      const lines = [
        `username=${username}`,
        `password=${password}`,
        ...(domain === '' ? [] : [`domain=${domain}`]),
      ];
      const secret = new Secret(`${lines.join('\n')}\n`);
      return withSecretPipe(directory, secret, (pipe) => attempt(point, [`credentials=${pipe}`]));
    },
  };
}

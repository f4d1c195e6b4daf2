import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { run } from '../process/run.ts';
import { withSecretPipe } from '../process/secretPipe.ts';
import { readOptions } from './layout.ts';

const HOUR = 3_600_000;

export interface ImageToCheck {
  /** The disk's target name, for messages. */
  readonly target: string;
  readonly path: string;
  /** qcow2 or luks+qcow2. */
  readonly layout: string;
  readonly secret: Secret | undefined;
}

/** What a damaged image means: a new one is not published, a published one is lost. */
export type Damage = 'CHECK_FAILED' | 'BACKUP_DAMAGED';

export interface CheckResult {
  readonly leakedClusters: number;
}

/** What names the `qemu-img` that checks an image, among all processes: one of its arguments. */
export function checkArgument(image: ImageToCheck): string {
  return `json:${JSON.stringify(readOptions(image.layout, image.secret !== undefined, image.path, 'key'))}`;
}

/**
 * Checks an image's metadata with `qemu-img check`. Leaked clusters (exit code 3) waste space and harm nothing.
 *
 * @param image with a key that is known to be its own: one that does not open it means damage to its LUKS header
 * @param runtimeDirectory a 0700 directory on tmpfs, for the pipe through which the key goes
 * @throws HoldfastError `damage`
 */
export async function checkImage(
  image: ImageToCheck,
  damage: Damage,
  runtimeDirectory: string,
  signal: AbortSignal,
): Promise<CheckResult> {
  const check = (secretArgs: readonly string[]): ReturnType<typeof run> =>
    run('qemu-img', ['check', '--output', 'json', ...secretArgs, checkArgument(image)], {
      deadlineMs: 24 * HOUR,
      signal,
    });
  const result =
    image.secret === undefined
      ? await check([])
      : await withSecretPipe(runtimeDirectory, image.secret, (path) =>
          check(['--object', `secret,id=key,file=${path}`]),
        );
  if (result.exitCode !== 0 && result.exitCode !== 3) {
    throw new HoldfastError(
      damage,
      `qemu-img check found the image of disk ${image.target} damaged (exit code ${result.exitCode}): ` +
        summary(result.stdout, result.stderr),
      { metadata: { disk: image.target } },
    );
  }
  const report = JSON.parse(result.stdout) as { leaks?: number };
  return { leakedClusters: report.leaks ?? 0 };
}

function summary(stdout: string, stderr: string): string {
  const said = stderr.trim();
  if (said !== '') return said.slice(0, 500);
  const report = JSON.parse(stdout) as { corruptions?: number; 'check-errors'?: number };
  return `${report.corruptions ?? 0} corruptions, ${report['check-errors'] ?? 0} errors while checking.`;
}

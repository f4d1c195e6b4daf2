import { link, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { DomainId } from '../libvirt/domains.ts';
import { sha256 } from '@holdfast/common/manifestDigest.ts';
import type { JobContext } from './context.ts';

/**
 * Keeps a second backup of the domain on this host from starting, until the job ends.
 *
 * @throws HoldfastError DOMAIN_BUSY
 */
export async function lockDomain(context: JobContext, domain: DomainId): Promise<void> {
  await mkdir(context.locksDirectory, { recursive: true, mode: 0o700 });
  const lock = join(
    context.locksDirectory,
    domain.uuid === '' ? sha256(Buffer.from(domain.name)) : domain.uuid,
  );
  const { jobId } = context.header;
  await context.undo.promise({ kind: 'release-lock', path: lock, owner: jobId });
  // Linking a finished file: the lock is never there without its owner's id in it.
  const mine = `${lock}.${jobId}`;
  await writeFile(mine, jobId, { mode: 0o600 });
  try {
    await link(mine, lock);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    throw new HoldfastError(
      'DOMAIN_BUSY',
      `Domain ${JSON.stringify(domain.name)} is being backed up already. Try again when that backup has ended.`,
    );
  } finally {
    await rm(mine, { force: true });
  }
}

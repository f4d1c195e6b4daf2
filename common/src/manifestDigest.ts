import { createHash, createHmac, hkdfSync, timingSafeEqual } from 'node:crypto';
import type { Secret } from './secret.ts';

/** SHA-256 in hexadecimal. */
export function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** HMAC-SHA-256 of the manifest under a key of its own, derived from the backup's by HKDF-SHA-256, in hexadecimal. */
export function manifestMac(bytes: Uint8Array, backupKey: Secret): string {
  const key = Buffer.from(hkdfSync('sha256', backupKey.reveal(), '', 'holdfast manifest mac v1', 32));
  return createHmac('sha256', key).update(bytes).digest('hex');
}

/** Whether a MAC, in hexadecimal as it lies beside the manifest, is the manifest's. */
export function isManifestMac(given: string, bytes: Uint8Array, backupKey: Secret): boolean {
  const one = Buffer.from(given.trim());
  const other = Buffer.from(manifestMac(bytes, backupKey));
  return one.length === other.length && timingSafeEqual(one, other);
}

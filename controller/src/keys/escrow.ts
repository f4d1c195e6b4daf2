import { createHash } from 'node:crypto';
import { Encrypter } from 'age-encryption';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { textOf, type ResolvedSettings } from '../zones/resolve.ts';

const KEY = 'nas.backup.encryption.escrow.recipients';

/** Public keys that open every backup of a zone beside the zone's own. */
export interface Escrow {
  /** A short name for this set of them, by which is known what a backup is wrapped to; empty for none. */
  readonly id: string;
  /** age1..., in order. */
  readonly recipients: readonly string[];
}

/** The escrow id of a backup that was found in a repository: its key file does not show who opens it. */
export const UNKNOWN_ESCROW = 'unknown';
/** The escrow id of a backup whose key file is not yet as the catalogue has it. */
export const UNWRITTEN_ESCROW = 'unwritten';

/** The escrow ids of backups that need not be wrapped anew in a zone with this escrow. */
export function fittingEscrows(escrowId: string): readonly string[] {
  return escrowId === '' ? ['', UNKNOWN_ESCROW] : [escrowId];
}

/** The escrow of a zone with these settings. */
export function escrowOf(settings: ResolvedSettings): Escrow {
  const recipients = recipientsIn(textOf(settings, KEY));
  const id =
    recipients.length === 0
      ? ''
      : createHash('sha256').update(recipients.join('\n')).digest('hex').slice(0, 16);
  return { id, recipients };
}

/** @throws HoldfastError SETTING_INVALID for a public key with a mistyped letter */
export function requireRecipients(text: string): void {
  for (const recipient of recipientsIn(text)) {
    try {
      new Encrypter().addRecipient(recipient);
    } catch (cause) {
      throw new HoldfastError(
        'SETTING_INVALID',
        `${KEY}: ${recipient} is not a public key of age; a letter of it may be another one.`,
        { metadata: { key: KEY }, cause },
      );
    }
  }
}

function recipientsIn(text: string): string[] {
  return [...new Set(text.split(/[, ]+/).filter((each) => each !== ''))].toSorted();
}

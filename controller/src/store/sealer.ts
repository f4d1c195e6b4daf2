import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes } from 'node:crypto';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';

const FORMAT = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_BYTES = 32;

/** Encrypts what must not lie in the database as plain text. */
export interface Sealer {
  /** The bytes under the master key, bound to `identity`, which names the row and column where they shall lie. */
  seal(plain: string | Uint8Array, identity: string): Uint8Array;
  /**
   * The bytes again.
   *
   * @throws HoldfastError STATE_UNUSABLE for another master key, another identity, or damage.
   */
  open(sealed: Uint8Array, identity: string): Buffer;
  /** A keyed digest, in hexadecimal, that says nothing about a short secret in the text. */
  digest(text: string): string;
}

/**
 * AES-256-GCM with random nonces under a key derived from the master key.
 *
 * @throws HoldfastError INVALID_REQUEST when the master key is not 32 bytes in hexadecimal.
 */
export function createSealer(masterKey: Secret): Sealer {
  const text = masterKey.reveal().trim();
  if (!/^[0-9a-fA-F]{64}$/.test(text)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      'The master key must be 32 bytes in hexadecimal: 64 digits on one line.',
    );
  }
  const master = Buffer.from(text, 'hex');
  const sealKey = derive(master, 'holdfast seal v1');
  const digestKey = derive(master, 'holdfast digest v1');
  return {
    seal: (plain, identity) => {
      const nonce = randomBytes(NONCE_BYTES);
      const cipher = createCipheriv('aes-256-gcm', sealKey, nonce, { authTagLength: TAG_BYTES });
      cipher.setAAD(Buffer.from(identity));
      const body = Buffer.concat([cipher.update(Buffer.from(plain)), cipher.final()]);
      return Buffer.concat([Buffer.from([FORMAT]), nonce, cipher.getAuthTag(), body]);
    },
    open: (sealed, identity) => {
      const nonce = sealed.subarray(1, 1 + NONCE_BYTES);
      const tag = sealed.subarray(1 + NONCE_BYTES, 1 + NONCE_BYTES + TAG_BYTES);
      try {
        const decipher = createDecipheriv('aes-256-gcm', sealKey, nonce, { authTagLength: TAG_BYTES });
        decipher.setAAD(Buffer.from(identity));
        decipher.setAuthTag(tag);
        const body = sealed.subarray(1 + NONCE_BYTES + TAG_BYTES);
        return Buffer.concat([decipher.update(body), decipher.final()]);
      } catch (cause) {
        throw new HoldfastError(
          'STATE_UNUSABLE',
          `The sealed value of ${identity} does not open: the master key is another one, or the database is damaged.`,
          { cause },
        );
      }
    },
    digest: (plain) => createHmac('sha256', digestKey).update(plain).digest('hex'),
  };
}

/** A new master key in the form that `createSealer` takes. */
export function generateMasterKey(): string {
  return randomBytes(KEY_BYTES).toString('hex');
}

function derive(master: Buffer, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', master, '', purpose, KEY_BYTES));
}

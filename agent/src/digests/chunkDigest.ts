import { createHash, createHmac, hkdfSync } from 'node:crypto';
import { MIB } from '@holdfast/common/bytes.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { ZEROES } from './digestList.ts';

/** What is read at a time. */
export const PIECE_BYTES = MIB / 2;

const ZERO_PIECE = Buffer.alloc(PIECE_BYTES);

/** Takes the bytes of one chunk, piece by piece. */
export interface ChunkDigest {
  /** At most PIECE_BYTES. */
  update(piece: Uint8Array): void;
  /** Zeroes that nobody read. */
  skip(bytes: number): void;
  /** In hexadecimal, or ZEROES. */
  end(): string;
}

/** SHA-256, or HMAC-SHA-256 under a key. Zeroes are the same whether they were read or not. */
export function chunkDigest(key: Uint8Array | undefined): ChunkDigest {
  const hash = key === undefined ? createHash('sha256') : createHmac('sha256', key);
  let isEmpty = true;
  let zeroBytes = 0;
  const takeZeroes = (): void => {
    for (; zeroBytes > 0; zeroBytes -= Math.min(zeroBytes, PIECE_BYTES)) {
      hash.update(ZERO_PIECE.subarray(0, Math.min(zeroBytes, PIECE_BYTES)));
    }
  };
  return {
    update: (piece) => {
      if (ZERO_PIECE.subarray(0, piece.length).equals(piece)) {
        zeroBytes += piece.length;
        return;
      }
      isEmpty = false;
      takeZeroes();
      hash.update(piece);
    },
    skip: (bytes) => {
      zeroBytes += bytes;
    },
    end: () => {
      if (isEmpty) return ZEROES;
      takeZeroes();
      return hash.digest('hex');
    },
  };
}

/**
 * The key under which the content of an encrypted backup is digested, so that nobody can find out what is in it by
 * guessing: HKDF-SHA-256 of the backup's own.
 */
export function contentKey(backupKey: Secret): Uint8Array {
  return Buffer.from(hkdfSync('sha256', backupKey.reveal(), '', 'holdfast content digest v1', 32));
}

import { Worker } from 'node:worker_threads';
import { PIECE_BYTES } from './chunkDigest.ts';

/** A part of a chunk that holds data. */
export interface Piece {
  /** From the beginning of the chunk. */
  readonly offset: number;
  /** At most PIECE_BYTES. */
  readonly bytes: number;
  /** The length of the chunk, with its last piece. Between the pieces of a chunk, before and behind them, are zeroes. */
  readonly chunkEnd: number | undefined;
}

/** Memory for a piece. */
export interface Slot {
  readonly index: number;
  readonly buffer: Buffer;
}

/** Digests the pieces of a disk in a thread of its own. */
export interface Digester {
  /** Memory that is free, as soon as there is some; to be asked for one at a time. @throws when no more can be digested */
  slot(): Promise<Slot>;
  /**
   * Digests a piece, after those that were given before, once it has arrived in its slot, and frees that.
   *
   * @param arrived whether it could be read
   * @returns the digest of the chunk when the piece was its last: in hexadecimal, ZEROES or UNREADABLE
   */
  digest(slot: Slot, piece: Piece, arrived: Promise<boolean>): Promise<string | undefined>;
  /** Ends the thread. */
  close(): Promise<void>;
}

/** What the thread is started with. */
export interface DigesterData {
  /** Holds the slots, each of PIECE_BYTES. */
  readonly memory: SharedArrayBuffer;
  /** For HMAC-SHA-256; plain SHA-256 without. */
  readonly key: Uint8Array | undefined;
}

/** What the thread is sent. */
export interface ReadPiece extends Piece {
  readonly slot: number;
  readonly isReadable: boolean;
}

/**
 * Pieces that are read or digested at the same time: no more than QEMU answers on two connections (nbd/server.c,
 * MAX_NBD_REQUESTS).
 */
const SLOTS = 32;

/**
 * Starts the thread. A socket holds a fifth of a MiB, so whoever digests in the thread that reads has QEMU wait for each digest,
 * with all that it could decrypt and decompress meanwhile.
 */
export function startDigester(key: Uint8Array | undefined): Digester {
  const memory = new SharedArrayBuffer(SLOTS * PIECE_BYTES);
  const workerData: DigesterData = { memory, key };
  const thread = new Worker(new URL('./digesterThread.ts', import.meta.url), { workerData });
  const free: Slot[] = Array.from({ length: SLOTS }, (_, index) => ({
    index,
    buffer: Buffer.from(memory, index * PIECE_BYTES, PIECE_BYTES),
  }));
  /** Who waits for a slot. */
  let asked: PromiseWithResolvers<Slot> | undefined;
  /** The pieces that are not digested yet, in their order. */
  const pieces: { readonly slot: Slot; readonly digested: PromiseWithResolvers<string | undefined> }[] = [];
  let failure: Error | undefined;
  const fail = (error: Error): void => {
    failure ??= error;
    asked?.reject(failure);
    for (const { digested } of pieces.splice(0)) digested.reject(failure);
  };
  thread.on('error', fail);
  thread.on('message', (digest: string | undefined) => {
    const done = pieces.shift();
    if (done === undefined) return;
    if (asked === undefined) free.push(done.slot);
    else asked.resolve(done.slot);
    asked = undefined;
    done.digested.resolve(digest);
  });

  let handedOver = Promise.resolve();
  return {
    slot: () => {
      if (failure !== undefined) return Promise.reject(failure);
      const slot = free.pop();
      if (slot !== undefined) return Promise.resolve(slot);
      asked = Promise.withResolvers();
      return asked.promise;
    },
    digest: (slot, piece, arrived) => {
      if (failure !== undefined) return Promise.reject(failure);
      const digested = Promise.withResolvers<string | undefined>();
      pieces.push({ slot, digested });
      // It may fail before its turn.
      arrived.catch(() => undefined);
      handedOver = handedOver
        .then(async () => {
          const isReadable = await arrived;
          thread.postMessage({ ...piece, slot: slot.index, isReadable } satisfies ReadPiece);
        })
        .catch(fail);
      return digested.promise;
    },
    close: async () => {
      await thread.terminate();
    },
  };
}

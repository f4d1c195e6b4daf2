import { setTimeout as sleep, setImmediate as nextTurn } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Trx } from './store.ts';

/** So many pieces of work share one commit at most, so that none waits for long. */
const MAX_BATCH = 256;

/** Of a database inside of this process, whose commits hold everything else up: it rests so much longer than it worked. */
const REST_FACTOR = 4;
const LONGEST_REST_MS = 20;

/**
 * Runs work in a transaction, and gives what it gave once that is safe on disk. What it throws undoes this work alone.
 * Work may be run again, so it does nothing but ask the given transaction.
 */
export type Transact = <Result>(work: (trx: Trx) => Promise<Result>) => Promise<Result>;

interface Piece {
  readonly run: (trx: Trx) => Promise<unknown>;
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Transactions that share commits: what is asked for while one is being committed goes into the next one together, each
 * behind a savepoint. So the disk is waited for once a batch, however many ask at a time.
 *
 * @param begin runs a body in one transaction and commits it; runs it again when the database asks for that
 * @param mustRepeat whether an error concerns the whole transaction, which `begin` repeats
 * @param rests whether there is a rest between batches, in which more comes together; the first after a pause has none
 */
export function batchTransactions(
  begin: (body: (trx: Trx) => Promise<void>) => Promise<void>,
  mustRepeat: (error: unknown) => boolean,
  rests: boolean,
): Transact {
  let restedAt = 0;
  const waiting: Piece[] = [];
  let running = false;

  const runAll = async (): Promise<void> => {
    running = true;
    while (waiting.length > 0) {
      // What others ask for in this turn of the event loop comes along.
      await nextTurn();
      const restMs = restedAt - performance.now();
      if (rests && restMs > 1) await sleep(restMs);
      const started = performance.now();
      await runBatch(waiting.splice(0, MAX_BATCH));
      const ended = performance.now();
      restedAt = ended + Math.min((ended - started) * REST_FACTOR, LONGEST_REST_MS);
    }
    running = false;
  };
  const runBatch = async (pieces: readonly Piece[]): Promise<void> => {
    let answers: (() => void)[] = [];
    try {
      await begin(async (trx) => {
        answers = [];
        for (const piece of pieces) answers.push(await runPiece(trx, piece, mustRepeat));
      });
    } catch (error) {
      answers = pieces.map((piece) => () => {
        piece.reject(error);
      });
    }
    for (const answer of answers) answer();
  };
  return <Result>(work: (trx: Trx) => Promise<Result>) =>
    new Promise<Result>((resolve, reject) => {
      waiting.push({ run: work, resolve: resolve as (result: unknown) => void, reject });
      if (!running) void runAll();
    });
}

/** What to tell whoever asked, once the batch is committed. */
async function runPiece(
  trx: Trx,
  { run, resolve, reject }: Piece,
  mustRepeat: (error: unknown) => boolean,
): Promise<() => void> {
  await sql`savepoint piece`.execute(trx);
  try {
    const result = await run(trx);
    await sql`release savepoint piece`.execute(trx);
    return () => {
      resolve(result);
    };
  } catch (error) {
    if (mustRepeat(error)) throw error;
    await sql`rollback to savepoint piece`.execute(trx);
    await sql`release savepoint piece`.execute(trx);
    return () => {
      reject(error);
    };
  }
}

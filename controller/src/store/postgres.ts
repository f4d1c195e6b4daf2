import { setTimeout as sleep } from 'node:timers/promises';
import { Kysely, PostgresDialect, sql, type PostgresPool } from 'kysely';
import pg from 'pg';
import { parse } from 'pg-connection-string';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Secret } from '@holdfast/common/secret.ts';
import { openNotices } from './postgres-notices.ts';
import type { Tables } from './schema.ts';
import type { Database, Trx } from './store.ts';

const SECOND = 1_000;
const CONNECT_DEADLINE_MS = 10 * SECOND;
const STATEMENT_DEADLINE_MS = 30 * SECOND;
const CONNECTIONS = 8;

/** A transaction that met another one is tried again, this often. */
const TRIES = 40;
const LONGEST_PAUSE_MS = 100;

/** Shared by the controllers that work on the database; held alone by one that changes the schema. Never changes. */
const WORK_LOCK_ID = 5_127_001;
/** Held by the controller that begins. */
const BEGIN_LOCK_ID = 5_127_002;

/** Bigints are counts of bytes and numbers of events: well within what a number holds. */
const INT8_OID = 20;

/**
 * The database behind a connection URL, such as postgresql://holdfast@/holdfast?host=/run/postgresql. It must be there.
 *
 * @throws HoldfastError INVALID_REQUEST for a bad URL, or for one that goes over a network without TLS,
 *   STATE_UNAVAILABLE when it does not answer, STATE_UNUSABLE when it does not let us in
 */
export async function openPostgres(url: Secret): Promise<Database> {
  const config = parseUrl(url);
  const locks = await connectForLocks(config);
  const notices = await openNotices(config).catch(async (error: unknown) => {
    await locks.end();
    throw explained(error);
  });
  const pool = new pg.Pool({
    ...config,
    max: CONNECTIONS,
    types: {
      getTypeParser: (oid: number, format?: string) => (oid === INT8_OID ? Number : typeParser(oid, format)),
    },
  });
  // An idle connection that breaks is replaced when one is needed; of one at work, the statement says so to who asked.
  pool.on('error', () => undefined);
  pool.on('connect', (client) => client.on('error', () => undefined));
  const db = new Kysely<Tables>({ dialect: new PostgresDialect({ pool: explainingPool(pool) }) });
  return {
    kind: 'postgres',
    db,
    notices,
    shared: true,
    clockMs: sql<number>`(extract(epoch from clock_timestamp()) * 1000)::bigint`,
    prepare: (isOutdated, migrate, alone) => prepare(locks, isOutdated, migrate, alone),
    begin: (body) => beginSerializable(db, body),
    mustRepeat: isConflict,
    scrub: async () => {
      // Writes the table anew, and unlinks the file that still had the rows of before.
      await sql`vacuum full keys`.execute(db);
    },
    close: async () => {
      // Kysely ends a pool that it has used only.
      await db.destroy();
      if (!pool.ended) await pool.end();
      await notices.close();
      await locks.end().catch(() => undefined);
    },
  };
}

function typeParser(oid: number, format?: string): (text: string) => unknown {
  return pg.types.getTypeParser(oid, format as 'text') as (text: string) => unknown;
}

/** Everything in the transaction is as if it ran alone; where it was not, it is run again. */
async function beginSerializable(db: Kysely<Tables>, body: (trx: Trx) => Promise<void>): Promise<void> {
  for (let tried = 1; ; tried += 1) {
    try {
      await db.transaction().setIsolationLevel('serializable').execute(body);
      return;
    } catch (error) {
      if (!isConflict(error) || tried === TRIES) throw error;
      await sleep(Math.random() * LONGEST_PAUSE_MS);
    }
  }
}

function parseUrl(url: Secret): pg.ClientConfig {
  let parsed;
  try {
    parsed = parse(url.reveal());
  } catch (cause) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      'The URL of the database must look like postgresql://USER@HOST:PORT/DATABASE.',
      { cause },
    );
  }
  const { host, port, user, password, database, ssl, application_name: name } = parsed;
  if (!isLocal(host ?? '') && (ssl === undefined || ssl === false)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The database at ${host ?? ''} is reached over a network: add sslmode=verify-full to its URL.`,
    );
  }
  return {
    ...(host ? { host } : {}),
    ...(port ? { port: Number(port) } : {}),
    ...(user === undefined ? {} : { user }),
    ...(password === undefined ? {} : { password }),
    ...(database ? { database } : {}),
    ...(ssl === undefined ? {} : { ssl: ssl as pg.ClientConfig['ssl'] & object }),
    application_name: name ?? 'holdfast-controller',
    connectionTimeoutMillis: CONNECT_DEADLINE_MS,
    statement_timeout: STATEMENT_DEADLINE_MS,
    query_timeout: STATEMENT_DEADLINE_MS + CONNECT_DEADLINE_MS,
    // A table that is read as a whole conflicts with whatever is written into it.
    options: '-c enable_seqscan=off',
    idle_in_transaction_session_timeout: STATEMENT_DEADLINE_MS,
    keepAlive: true,
  };
}

/** Without a host, the standard one counts, which is this machine. */
function isLocal(host: string): boolean {
  return host === '' || host.startsWith('/') || /^(localhost|127(\.\d+){3}|\[?::1\]?)$/.test(host);
}

/** Locks are held for as long as the connection lasts. */
async function connectForLocks(config: pg.ClientConfig): Promise<pg.Client> {
  const client = new pg.Client(config);
  client.on('error', () => undefined);
  try {
    await client.connect();
    return client;
  } catch (error) {
    await client.end().catch(() => undefined);
    throw explained(error);
  }
}

/** One after the other, controllers that begin; the schema is changed while no other one works on the database. */
async function prepare(
  locks: pg.Client,
  isOutdated: () => Promise<boolean>,
  migrate: () => Promise<void>,
  stayAlone: boolean,
): Promise<void> {
  const ask = async (text: string): Promise<boolean> => {
    try {
      const { rows } = await locks.query<{ taken: boolean }>(`select ${text} as taken`);
      return rows[0]?.taken === true;
    } catch (error) {
      throw explained(error);
    }
  };
  await ask(`pg_advisory_lock(${BEGIN_LOCK_ID}) is null`);
  const alone = stayAlone || (await isOutdated());
  if (!(await ask(`pg_try_advisory_lock${alone ? '' : '_shared'}(${WORK_LOCK_ID})`))) {
    throw new HoldfastError(
      'IN_USE',
      stayAlone
        ? `A controller works on the database ${locks.database ?? ''}. Stop it first.`
        : `A controller of another version works on the database ${locks.database ?? ''}. Stop it first.`,
    );
  }
  await migrate();
  if (alone && !stayAlone) {
    await ask(`pg_advisory_lock_shared(${WORK_LOCK_ID}) is null`);
    await ask(`pg_advisory_unlock(${WORK_LOCK_ID})`);
  }
  await ask(`pg_advisory_unlock(${BEGIN_LOCK_ID})`);
}

/** The pool with errors that say whether the database, the request or a bug is to blame. */
function explainingPool(pool: pg.Pool): PostgresPool {
  const explaining = async <Result>(answer: Promise<Result>): Promise<Result> => {
    try {
      return await answer;
    } catch (error) {
      throw explained(error);
    }
  };
  return {
    options: pool.options,
    connect: async () => {
      const client = await explaining(pool.connect());
      return {
        query: (text: string, parameters: readonly unknown[]) =>
          explaining(client.query(text, [...parameters])),
        release: () => {
          client.release();
        },
      } as unknown as Awaited<ReturnType<PostgresPool['connect']>>;
    },
    end: () => pool.end(),
  };
}

/** https://www.postgresql.org/docs/current/errcodes-appendix.html */
function explained(error: unknown): unknown {
  if (error instanceof HoldfastError || !(error instanceof Error)) return error;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  const options = { cause: error };
  if (/^(28|3D|42501)/.test(code)) {
    return new HoldfastError('STATE_UNUSABLE', `The database does not let us in: ${error.message}.`, options);
  }
  if (code === '22021') {
    return new HoldfastError(
      'INVALID_REQUEST',
      'A text in the request has a character with the code 0.',
      options,
    );
  }
  // Without one of its codes the error is not the database's: the connection, or a deadline.
  if (/^(08|53|57|58)/.test(code) || !/^[0-9A-Z]{5}$/.test(code)) {
    return new HoldfastError(
      'STATE_UNAVAILABLE',
      `The database does not answer: ${error.message || code}.`,
      options,
    );
  }
  return error;
}

/** Serialization failure and deadlock. */
function isConflict(error: unknown): boolean {
  return error instanceof Error && 'code' in error && (error.code === '40001' || error.code === '40P01');
}

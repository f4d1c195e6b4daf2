import { randomUUID } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { Secret } from '@holdfast/common/secret.ts';
// What needs root, namespaces and Debian's packages is the labs'.
import { startPostgres, type Postgres } from '../../../test/lab/postgres.ts';
import type { StatePlace } from '../store/store.ts';

/** One cluster for all tests of a run: to make one takes two seconds. */
let cluster: Promise<Postgres> | undefined;

after('PostgreSQL ends', async () => {
  await (await cluster)?.[Symbol.asyncDispose]();
  cluster = undefined;
});

/** Where a test keeps state of its own. */
export interface TestState {
  readonly place: StatePlace;
  /** Every byte that was stored, for a look at what must not be there. */
  dump(): Promise<Buffer>;
  remove(): Promise<void>;
}

export type StoreKind = StatePlace['kind'];

/** Makes a place for state of a kind, empty. */
export async function makeState(kind: StoreKind): Promise<TestState> {
  return kind === 'sqlite' ? makeSqliteState() : await makePostgresState();
}

function makeSqliteState(): TestState {
  const parent = mkdtempSync(join(tmpdir(), 'holdfast-state-'));
  const directory = join(parent, 'state');
  return {
    place: { kind: 'sqlite', directory },
    dump: () =>
      Promise.resolve(
        Buffer.concat(readdirSync(directory).map((file) => readFileSync(join(directory, file)))),
      ),
    remove: () => {
      rmSync(parent, { recursive: true, force: true });
      return Promise.resolve();
    },
  };
}

async function makePostgresState(): Promise<TestState> {
  const postgres = await (cluster ??= startPostgres());
  const name = `holdfast_${randomUUID().replaceAll('-', '')}`;
  const url = postgres.url(name);
  await query(postgres.url('postgres'), `create database ${name} template template0`);
  return {
    place: { kind: 'postgres', url: new Secret(url) },
    dump: async () => {
      const tables = await query(url, `select tablename from pg_tables where schemaname = 'public'`);
      const values: Buffer[] = [];
      for (const { tablename } of tables) {
        for (const row of await query(url, `select * from ${String(tablename)}`)) {
          for (const value of Object.values(row)) {
            values.push(Buffer.isBuffer(value) ? value : Buffer.from(String(value)));
          }
        }
      }
      return Buffer.concat(values);
    },
    remove: async () => {
      await query(postgres.url('postgres'), `drop database ${name} with (force)`);
    },
  };
}

/** Asks a database something in a connection of its own. */
export async function query(url: string, text: string): Promise<Record<string, unknown>[]> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    return (await client.query<Record<string, unknown>>(text)).rows;
  } finally {
    await client.end();
  }
}

/** Describes the same on both stores. */
export function describeOnBothStores(
  title: string,
  describeOn: (this: Mocha.Suite, kind: StoreKind) => void,
): void {
  for (const [kind, name] of [
    ['sqlite', 'SQLite'],
    ['postgres', 'PostgreSQL'],
  ] as const) {
    describe(`${title} (${name})`, function () {
      describeOn.call(this, kind);
    });
  }
}

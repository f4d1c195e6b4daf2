import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import pg from 'pg';
import type { Notice, Notices } from './notices.ts';

const CHANNEL = 'holdfast';
const RETRY_MS = 1_000;

/** Sends notices with NOTIFY, and hears those of others with LISTEN, on a connection of its own. */
export async function openNotices(
  config: pg.ClientConfig,
): Promise<Notices & { readonly close: () => Promise<void> }> {
  const ours = randomUUID();
  const listeners = new Set<(notice: Notice) => void>();
  const stop = new AbortController();
  const isStopped = (): boolean => stop.signal.aborted;
  const hear = (notice: Notice): void => {
    for (const listener of listeners) listener(notice);
  };

  const connect = async (): Promise<pg.Client> => {
    const client = new pg.Client(config);
    client.on('error', () => undefined);
    client.on('notification', ({ payload = '' }) => {
      const { from, notice } = JSON.parse(payload) as { from: string; notice: Notice };
      if (from !== ours) hear(notice);
    });
    try {
      await client.connect();
      await client.query(`listen ${CHANNEL}`);
      return client;
    } catch (error) {
      await client.end().catch(() => undefined);
      throw error;
    }
  };
  let client = await connect();
  const connectAgain = async (): Promise<void> => {
    while (!isStopped()) {
      try {
        client = await connect();
      } catch {
        // Whoever needs the database is told that it does not answer.
        await sleep(RETRY_MS, undefined, { signal: stop.signal }).catch(() => undefined);
        continue;
      }
      if (isStopped()) await client.end();
      else hear({ kind: 'missed' });
      return;
    }
  };
  const keepConnected = async (): Promise<void> => {
    while (!isStopped()) {
      // An error comes before the end.
      await new Promise((resolve) => client.once('end', resolve));
      await connectAgain();
    }
  };
  const kept = keepConnected();

  return {
    tell: async (notice, db) => {
      await sql`select pg_notify(${CHANNEL}, ${JSON.stringify({ from: ours, notice })})`.execute(db);
    },
    listen: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close: async () => {
      stop.abort();
      await client.end().catch(() => undefined);
      await kept;
    },
  };
}

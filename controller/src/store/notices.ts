import type { Db, Trx } from './store.ts';

/** What one controller tells the others that work on the same database. Small: PostgreSQL takes 8,000 bytes. */
export type Notice =
  /** Events of an operation were stored. */
  | { readonly kind: 'stored'; readonly operationId: string }
  /** The latest progress of an operation, an OperationEvent as JSON. */
  | { readonly kind: 'progress'; readonly operationId: string; readonly event: unknown }
  /** Somebody watches these operations, and would like to see their progress. */
  | { readonly kind: 'watched'; readonly operationIds: readonly string[] }
  /** A command, a Control as JSON, for whoever leads the operation. */
  | {
      readonly kind: 'command';
      readonly commandId: string;
      readonly operationId: string;
      readonly control: unknown;
    }
  /** A command was passed on to the agent. */
  | { readonly kind: 'passed'; readonly commandId: string }
  /** What some backups of a zone may use of its bandwidth has changed, or some have come or gone: it is divided anew. */
  | { readonly kind: 'divided'; readonly zone: string }
  /** Notices may have been lost. */
  | { readonly kind: 'missed' };

/** The way from one controller to all others. Where there can be no others, nothing is sent and nothing comes. */
export interface Notices {
  /** With a transaction, it is sent when that commits, and not at all when it is undone. */
  tell(notice: Notice, db: Db | Trx): Promise<void>;
  /** Gives every notice of others to a listener. @returns what ends that */
  listen(listener: (notice: Notice) => void): () => void;
}

/** For a database that one controller works on. */
export const noNotices: Notices = { tell: () => Promise.resolve(), listen: () => () => undefined };

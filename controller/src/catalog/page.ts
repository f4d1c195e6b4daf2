import { sql, type Expression, type SqlBool } from 'kysely';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isUuid } from '@holdfast/common/uuid.ts';

const DEFAULT_PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;
/** Clients of gRPC take messages of up to 4 MiB, unless they are told otherwise. */
const MAX_PAGE_BYTES = 2 * 1024 * 1024;

/** Where a page ends: the time and id of its last entry. The next one begins after it, whatever was added meanwhile. */
export interface PageEnd {
  readonly time: string;
  readonly id: string;
}

/**
 * How many entries a page has.
 *
 * @throws HoldfastError INVALID_REQUEST for a negative number, PAGE_TOO_LARGE
 */
export function parsePageSize(asked: number): number {
  if (asked < 0) throw new HoldfastError('INVALID_REQUEST', `The page size ${asked} is negative.`);
  if (asked <= MAX_PAGE_SIZE) return asked === 0 ? DEFAULT_PAGE_SIZE : asked;
  throw new HoldfastError(
    'PAGE_TOO_LARGE',
    `A page of ${asked} entries is too large. Ask for at most ${MAX_PAGE_SIZE}, and for the next page after it.`,
    { metadata: { limit: String(MAX_PAGE_SIZE) } },
  );
}

/** The end of the page before, from its token. @throws HoldfastError INVALID_REQUEST for a token that we did not make */
export function parsePageToken(token: string): PageEnd | undefined {
  if (token === '') return undefined;
  const match = /^(?<time>\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z) (?<id>[\w-]{1,64})$/.exec(
    Buffer.from(token, 'base64url').toString(),
  );
  const { time, id } = match?.groups ?? {};
  if (time === undefined || id === undefined) {
    throw new HoldfastError('INVALID_REQUEST', 'The page token is not one that this service gave.');
  }
  return { time, id };
}

/**
 * Cuts what was fetched, one entry more than the page has, into the page and the token of the next one. A page ends early
 * where it would be too large for a message.
 *
 * @param bytesOf about how large an entry is on the wire; where they are small it need not be known
 */
export function cutPage<Row>(
  rows: readonly Row[],
  pageSize: number,
  endOf: (row: Row) => PageEnd,
  bytesOf: (row: Row) => number = () => 0,
): { readonly page: readonly Row[]; readonly nextPageToken: string } {
  const page: Row[] = [];
  let bytes = 0;
  for (const row of rows.slice(0, pageSize)) {
    bytes += bytesOf(row);
    if (page.length > 0 && bytes > MAX_PAGE_BYTES) break;
    page.push(row);
  }
  const last = page.at(-1);
  if (rows.length <= page.length || last === undefined) return { page, nextPageToken: '' };
  const { time, id } = endOf(last);
  return { page, nextPageToken: Buffer.from(`${time} ${id}`).toString('base64url') };
}

/** What comes after the end of a page, newest first: one comparison of rows, so that an index leads there. */
export function isAfter(timeColumn: string, { time, id }: PageEnd): Expression<SqlBool> {
  return sql<boolean>`(${sql.ref(timeColumn)}, ${sql.ref('id')}) < (${time}, ${id})`;
}

/** A column that names the domain, and its value there. */
export type DomainWay = readonly ['domain_name' | 'domain_uuid', string];

/** The ways to what belongs to a domain, which is given by its name or UUID; one to everything without a domain. */
export function domainWays(domain: string): readonly (DomainWay | undefined)[] {
  if (domain === '') return [undefined];
  const uuid = domain.toLowerCase();
  return isUuid(uuid)
    ? [
        ['domain_name', domain],
        ['domain_uuid', uuid],
      ]
    : [['domain_name', domain]];
}

/**
 * A page of what one of several ways leads to, newest first. Each way has an index that is in this order; a condition that
 * takes several ways at once would have none.
 *
 * @param find what a way leads to, newest first, one entry more than the page has
 */
export async function findPage<Way, Row extends { readonly id: string }>(
  ways: readonly Way[],
  find: (way: Way) => Promise<readonly Row[]>,
  endOf: (row: Row) => PageEnd,
  pageSize: number,
  bytesOf?: (row: Row) => number,
): Promise<{ readonly page: readonly Row[]; readonly nextPageToken: string }> {
  const found: (readonly Row[])[] = [];
  for (const way of ways) found.push(await find(way));
  const [only, ...others] = found;
  if (only !== undefined && others.length === 0) return cutPage(only, pageSize, endOf, bytesOf);
  const rows = new Map(found.flat().map((row) => [row.id, row]));
  const newestFirst = [...rows.values()].sort((one, other) =>
    keyOf(endOf(one)) < keyOf(endOf(other)) ? 1 : -1,
  );
  return cutPage(newestFirst, pageSize, endOf, bytesOf);
}

function keyOf({ time, id }: PageEnd): string {
  return `${time} ${id}`;
}

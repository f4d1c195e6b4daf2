import { HoldfastError } from '@holdfast/common/errors.ts';

const DEFAULT_PAGE_SIZE = 100;
const MAX_PAGE_SIZE = 1_000;

/** Where a page ends: the time and id of its last entry. The next one begins after it, whatever was added meanwhile. */
export interface PageEnd {
  readonly time: string;
  readonly id: string;
}

/** How many entries a page has. @throws HoldfastError INVALID_REQUEST for a negative number */
export function parsePageSize(asked: number): number {
  if (asked < 0) throw new HoldfastError('INVALID_REQUEST', `The page size ${asked} is negative.`);
  return asked === 0 ? DEFAULT_PAGE_SIZE : Math.min(asked, MAX_PAGE_SIZE);
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

/** Cuts what was fetched, one entry more than the page has, into the page and the token of the next one. */
export function cutPage<Row>(
  rows: readonly Row[],
  pageSize: number,
  endOf: (row: Row) => PageEnd,
): { readonly page: readonly Row[]; readonly nextPageToken: string } {
  const page = rows.slice(0, pageSize);
  const last = page.at(-1);
  if (rows.length <= pageSize || last === undefined) return { page, nextPageToken: '' };
  const { time, id } = endOf(last);
  return { page, nextPageToken: Buffer.from(`${time} ${id}`).toString('base64url') };
}

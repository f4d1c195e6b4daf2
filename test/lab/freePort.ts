import { createServer } from 'node:net';

/** A port of 127.0.0.1 that nobody listens on. Taken again, by whoever asked, a moment later. */
export async function freePort(): Promise<number> {
  await using server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('No port is free.');
  return address.port;
}

import { connect } from 'node:http2';
import type { Address } from '../address.ts';

/** How a raw call ends: with its half closed, or reset by us. */
export type Ending = 'half-close' | 'reset';

const DEADLINE_MS = 20_000;

/**
 * Sends bytes to a gRPC method by HTTP/2 alone, as no client library would.
 *
 * @param chunks the request's data, as it is: no length is put before it
 * @param headers besides those that every call has
 * @returns the gRPC status, or undefined when the call was reset before there was one
 */
export function rawCall(
  address: Address & { readonly kind: 'unix' },
  path: string,
  chunks: readonly Uint8Array[],
  ending: Ending,
  headers: Readonly<Record<string, string>> = {},
): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const session = connect('http://localhost', { path: address.path });
    session.on('error', reject);
    const stream = session.request({
      ':method': 'POST',
      ':path': path,
      'content-type': 'application/grpc+proto',
      te: 'trailers',
      ...headers,
    });
    let status: number | undefined;
    const note = (answered: Readonly<Record<string, unknown>>): void => {
      const text = answered['grpc-status'];
      if (typeof text === 'string') status = Number(text);
    };
    const timer = setTimeout(() => {
      session.destroy();
      reject(new Error(`${path} did not end`));
    }, DEADLINE_MS);
    stream.on('response', note);
    stream.on('trailers', note);
    stream.on('data', () => undefined);
    stream.on('error', () => undefined);
    stream.on('close', () => {
      clearTimeout(timer);
      session.destroy();
      resolve(status);
    });
    for (const chunk of chunks) stream.write(chunk);
    if (ending === 'half-close') stream.end();
    else
      setImmediate(() => {
        stream.close();
      });
  });
}

/**
 * A message as gRPC frames it.
 *
 * @param length what the frame says its length is
 * @param compressed whether the frame says that it is compressed
 */
export function frame(message: Uint8Array, length = message.length, compressed = false): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(compressed ? 1 : 0);
  head.writeUInt32BE(length, 1);
  return Buffer.concat([head, message]);
}

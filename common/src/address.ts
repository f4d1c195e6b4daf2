import { isIP } from 'node:net';
import { HoldfastError } from './errors.ts';

/** Where a service listens or is found: a unix socket or a TCP port. */
export type Address =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

/** A unix socket's path must fit into sockaddr_un (unix(7)). */
const MAX_SOCKET_PATH_BYTES = 107;

/**
 * Reads `unix:///run/holdfast/controller.sock` or `127.0.0.1:7600` (`[::1]:7600`, `localhost:7600`).
 *
 * @throws HoldfastError INVALID_REQUEST when it is neither.
 */
export function parseAddress(text: string): Address {
  if (text.startsWith('unix:')) {
    const path = text.slice('unix:'.length).replace(/^\/\/(?=\/)/, '');
    if (!/^\/(?!\/)/.test(path) || Buffer.byteLength(path) > MAX_SOCKET_PATH_BYTES) {
      throw new HoldfastError(
        'INVALID_REQUEST',
        `The address ${JSON.stringify(text)} is not unix:///PATH with an absolute path of at most ${MAX_SOCKET_PATH_BYTES} bytes.`,
      );
    }
    return { kind: 'unix', path };
  }
  const match = /^(?:\[(?<six>[0-9a-fA-F:.]+)\]|(?<host>[A-Za-z0-9.-]+)):(?<port>\d{1,5})$/.exec(text);
  const host = match?.groups?.['six'] ?? match?.groups?.['host'];
  const port = Number(match?.groups?.['port']);
  if (host === undefined || !(port >= 0 && port <= 65_535)) {
    throw new HoldfastError(
      'INVALID_REQUEST',
      `The address ${JSON.stringify(text)} is neither unix:///PATH nor HOST:PORT.`,
    );
  }
  return { kind: 'tcp', host, port };
}

/** The address in the form that grpc-js takes, for servers and clients. */
export function grpcTarget(address: Address): string {
  if (address.kind === 'unix') return `unix:${address.path}`;
  return isIP(address.host) === 6 ? `[${address.host}]:${address.port}` : `${address.host}:${address.port}`;
}

/**
 * Refuses an address that other machines could reach: nothing is encrypted on the wire, so it must not leave the host.
 *
 * @throws HoldfastError INVALID_REQUEST
 */
export function requireLocal(address: Address): void {
  if (address.kind === 'unix') return;
  if (address.host === 'localhost' || address.host === '::1' || /^127(\.\d{1,3}){3}$/.test(address.host))
    return;
  throw new HoldfastError(
    'INVALID_REQUEST',
    `${address.host}:${address.port} can be reached from other machines, and without certificates connections are not ` +
      'encrypted. Use a loopback address such as 127.0.0.1, a unix socket, or TLS (--tls-directory).',
  );
}

import { createServer as createHttp2Server } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { createServer, type TLSSocket } from 'node:tls';
import { HoldfastError, toServiceError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import type { Certificates, CertificateSet } from './certificates.ts';
import { identityOf } from './identity.ts';

const HANDSHAKE_DEADLINE_MS = 10_000;
/** How long somebody who was refused may stay to hear why. */
const FAREWELL_MS = 5_000;

/** A port on which TLS is spoken, both ends with certificates. */
export interface TlsListener {
  readonly port: number;
  /** Takes no more connections. Those that are there stay. */
  close(): void;
}

/**
 * Listens with TLS 1.3 and asks everybody for a certificate of the authority. Connections with one go to `accept`. The
 * others hear UNAUTHENTICATED with what is wrong, whatever they ask, and are closed; nothing else of ours sees them.
 *
 * @throws HoldfastError IN_USE
 */
export async function listenTls(
  place: { readonly host: string; readonly port: number },
  certificates: Certificates,
  accept: (socket: TLSSocket) => void,
  logger: Logger,
): Promise<TlsListener> {
  const server = createServer({
    ...contextOf(certificates.current()),
    minVersion: 'TLSv1.3',
    requestCert: true,
    // So that they can be told; below, nobody is accepted who is not authorized.
    rejectUnauthorized: false,
    ALPNProtocols: ['h2'],
    handshakeTimeout: HANDSHAKE_DEADLINE_MS,
  });
  server.on('secureConnection', (socket) => {
    socket.on('error', (error: Error) => {
      logger.debug('a connection failed', { error: error.message });
    });
    const problem = problemOf(socket);
    if (problem === undefined) {
      accept(socket);
      return;
    }
    logger.warn('refused a connection', { peer: peerOf(socket), problem });
    refuse(socket, problem);
  });
  server.on('tlsClientError', (error, socket) => {
    logger.info('a handshake failed', { peer: peerOf(socket), problem: error.message });
  });
  const forget = certificates.onChange((set) => {
    server.setSecureContext({ ...contextOf(set), minVersion: 'TLSv1.3' });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (error: Error) => {
      reject(new HoldfastError('IN_USE', `Cannot listen on ${place.host}:${place.port}: ${error.message}`));
    });
    server.listen(place.port, place.host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () => {
      forget();
      server.close();
    },
  };
}

function contextOf(set: CertificateSet): {
  readonly ca: Buffer;
  readonly cert: Buffer;
  readonly key: Buffer;
} {
  return { ca: set.authority, cert: set.certificate, key: set.key };
}

/** Why nobody at this connection is to be heard; undefined when its certificate is good. */
function problemOf(socket: TLSSocket): string | undefined {
  const certificate = socket.getPeerCertificate();
  if (Object.keys(certificate).length === 0) return 'It shows no certificate.';
  if (!socket.authorized) {
    // The types say Error, and it is a code.
    const code = String(socket.authorizationError);
    return `${WORDS[code] ?? 'Its certificate is not accepted'} (${code}).`;
  }
  const identity = identityOf(certificate);
  if (identity.grants.length > 0) return undefined;
  return 'Its certificate has no URI that gives it a role, such as holdfast://operator/zones/home.';
}

const WORDS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'Its certificate has expired',
  CERT_NOT_YET_VALID: 'Its certificate is not valid yet',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'Its certificate is of an authority that is not trusted here',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'Its certificate is of an authority that is not trusted here',
  UNABLE_TO_GET_ISSUER_CERT: 'Its certificate is of an authority that is not trusted here',
  SELF_SIGNED_CERT_IN_CHAIN: 'Its certificate is of an authority that is not trusted here',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'Its certificate is signed by itself',
  CERT_SIGNATURE_FAILURE: 'Its certificate is of an authority that is not trusted here',
  INVALID_PURPOSE: 'Its certificate is not for clients',
};

/** An HTTP/2 server that knows one answer. */
function refuse(socket: TLSSocket, problem: string): void {
  const { code, details, metadata } = toServiceError(
    new HoldfastError('CERTIFICATE_REFUSED', `The connection is refused. ${problem}`),
  );
  const server = createHttp2Server({ settings: { maxConcurrentStreams: 10 } });
  server.on('sessionError', () => undefined);
  server.on('stream', (stream) => {
    stream.on('error', () => undefined);
    stream.respond(
      {
        ':status': 200,
        'content-type': 'application/grpc+proto',
        'grpc-status': String(code),
        'grpc-message': encodeURI(details),
        ...metadata.toHttp2Headers(),
      },
      { endStream: true },
    );
  });
  setTimeout(() => {
    socket.destroy();
  }, FAREWELL_MS).unref();
  server.emit('connection', socket);
}

function peerOf(socket: TLSSocket): string {
  return `${socket.remoteAddress ?? 'unknown'}:${socket.remotePort ?? 0}`;
}

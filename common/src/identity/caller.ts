import type { ServerInterceptingCallInterface } from '@grpc/grpc-js';
import { HoldfastError } from '../errors.ts';
import { identityOf, type Identity } from './identity.ts';

type Call = Pick<ServerInterceptingCallInterface, 'getAuthContext'>;

/** Who calls, by the certificate with which the connection was accepted; undefined without TLS. */
export function callerIdentity(call: Call): Identity | undefined {
  const { transportSecurityType, sslPeerCertificate } = call.getAuthContext();
  if (transportSecurityType === undefined) return undefined;
  // Without a certificate there is no connection; were it otherwise, whoever is there has no rights.
  return sslPeerCertificate === undefined ? { name: 'nobody', grants: [] } : identityOf(sslPeerCertificate);
}

/** @throws HoldfastError CERTIFICATE_REFUSED when the certificate has expired since the connection was opened */
export function requireUnexpired(call: Call): void {
  const { sslPeerCertificate } = call.getAuthContext();
  if (sslPeerCertificate === undefined || Date.parse(sslPeerCertificate.valid_to) >= Date.now()) return;
  throw new HoldfastError(
    'CERTIFICATE_REFUSED',
    'The certificate of this connection has expired since it was opened. Connect again with a renewed one.',
  );
}

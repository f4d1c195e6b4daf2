import { isIP } from 'node:net';
import { checkServerIdentity, type PeerCertificate } from 'node:tls';
import {
  Channel,
  credentials,
  type ChannelCredentials,
  type ChannelInterface,
  type ChannelOptions,
} from '@grpc/grpc-js';
import { grpcTarget, type Address } from '../address.ts';
import type { Certificates, CertificateSet } from './certificates.ts';
import { identityOf, type Grant } from './identity.ts';

/** Who shall be at the other end; the host only of an agent, and only when it is known. */
export type ExpectedPeer = Pick<Grant, 'role' | 'zone'> & { readonly host?: string | undefined };

/**
 * A channel that shows our certificate and wants one from the other end: of our authority, for the address, and with the
 * role. After each renewal of ours new calls go over new connections; those that are under way stay where they are.
 */
export function openTlsChannel(
  address: Address & { readonly kind: 'tcp' },
  certificates: Certificates,
  expected: ExpectedPeer,
  options: ChannelOptions,
): ChannelInterface {
  const open = (set: CertificateSet): Channel =>
    new Channel(grpcTarget(address), credentialsOf(set, address.host, expected), {
      ...options,
      // An IP address is not a name that TLS can ask for.
      ...(isIP(address.host) === 0 ? {} : { 'grpc.ssl_target_name_override': 'holdfast' }),
    });
  let channel = open(certificates.current());
  const forget = certificates.onChange((set) => {
    const old = channel;
    channel = open(set);
    old.close();
  });
  return {
    close: () => {
      forget();
      channel.close();
    },
    getTarget: () => channel.getTarget(),
    getConnectivityState: (tryToConnect) => channel.getConnectivityState(tryToConnect),
    watchConnectivityState: (state, deadline, callback) => {
      channel.watchConnectivityState(state, deadline, callback);
    },
    getChannelzRef: () => channel.getChannelzRef(),
    createCall: (...given) => channel.createCall(...given),
  };
}

function credentialsOf(set: CertificateSet, host: string, expected: ExpectedPeer): ChannelCredentials {
  return credentials.createSsl(set.authority, set.key, set.certificate, {
    checkServerIdentity: (_name, certificate) => checkPeer(host, expected, certificate),
  });
}

/** What is wrong with the other end's certificate, which is of our authority. */
function checkPeer(host: string, expected: ExpectedPeer, certificate: PeerCertificate): Error | undefined {
  const wrong = checkServerIdentity(host, certificate);
  if (wrong !== undefined) return wrong;
  const { name, grants } = identityOf(certificate);
  const fits = grants.some(
    (grant) =>
      grant.role === expected.role &&
      (grant.zone === undefined || expected.zone === undefined || grant.zone === expected.zone) &&
      (expected.host === undefined || grant.host === expected.host),
  );
  if (fits) return undefined;
  const { role, zone, host: wanted } = expected;
  const who = [`the ${role}`, wanted && `of host ${wanted}`, zone && `of zone ${zone}`]
    .filter(Boolean)
    .join(' ');
  return new Error(`The certificate at ${host} is of ${name}, which is not ${who}.`);
}

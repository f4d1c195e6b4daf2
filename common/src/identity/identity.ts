import type { PeerCertificate } from 'node:tls';

/** What the holder of a certificate may be. `viewer`, `operator` and `admin` are callers of a controller. */
export type Role = 'viewer' | 'operator' | 'admin' | 'controller' | 'agent';

/** What one URI of a certificate says: a role, in one zone or in all. */
export interface Grant {
  readonly role: Role;
  /** Undefined: in every zone. */
  readonly zone: string | undefined;
  /** The host of an agent. */
  readonly host: string | undefined;
}

/** Who somebody is, by the URIs (subject alternative names) of a certificate that was verified. */
export interface Identity {
  /** For logs, records and messages: the common name and the URIs. */
  readonly name: string;
  readonly grants: readonly Grant[];
}

const URI =
  /^holdfast:\/\/(?<role>viewer|operator|admin|controller|agent)(?:\/zones\/(?<zone>[\w.-]{1,63})(?:\/hosts\/(?<host>[\w.-]{1,63}))?)?$/;

/** `holdfast://operator/zones/home`, or `holdfast://agent/zones/home/hosts/h1`. */
export function grantUri({ role, zone, host }: Grant): string {
  const inZone = zone === undefined ? '' : `/zones/${zone}`;
  return `holdfast://${role}${inZone}${host === undefined ? '' : `/hosts/${host}`}`;
}

/** The grant that a URI gives; undefined when it gives none. An agent has a zone and a host, nobody else has a host. */
export function parseGrant(uri: string): Grant | undefined {
  const { role, zone, host } = URI.exec(uri)?.groups ?? {};
  if (role === undefined || (role === 'agent') !== (host !== undefined)) return undefined;
  return { role: role as Role, zone, host };
}

/** The identity that a verified certificate gives; without a URI of ours in it, one without grants. */
export function identityOf(certificate: Pick<PeerCertificate, 'subject' | 'subjectaltname'>): Identity {
  const uris = namesOf(certificate.subjectaltname ?? '', 'URI').filter(
    (uri) => parseGrant(uri) !== undefined,
  );
  // Certificates with several common names exist, and then this is an array.
  const commonName = [certificate.subject.CN].flat().join(' ');
  return {
    name: `${commonName} (${uris.join(', ')})`,
    grants: uris.flatMap((uri) => parseGrant(uri) ?? []),
  };
}

/** Whether the identity has one of the roles, in the zone; without a zone: in all zones. */
export function hasRole(identity: Identity, roles: readonly Role[], zone: string | undefined): boolean {
  return identity.grants.some(
    (grant) => roles.includes(grant.role) && (grant.zone === undefined || grant.zone === zone),
  );
}

/**
 * The names of one kind (`URI`, `DNS`, `IP Address`) in Node's text of subject alternative names. A name with a comma
 * or a quote in it is a JSON string there; a text that has another form gives no names at all.
 */
export function namesOf(text: string, kind: string): string[] {
  const name = /(?<kind>[A-Za-z][A-Za-z ]*):(?:(?<quoted>"(?:[^"\\]|\\.)*")|(?<plain>[^",]*))(?:, |$)/y;
  const found: string[] = [];
  while (name.lastIndex < text.length) {
    const groups = name.exec(text)?.groups;
    if (groups === undefined) return [];
    if (groups['kind'] !== kind) continue;
    found.push(groups['plain'] ?? (JSON.parse(groups['quoted'] ?? '""') as string));
  }
  return found;
}

// The library needs it, and before it.
import 'reflect-metadata';
import { randomBytes, type webcrypto } from 'node:crypto';
import { mkdir, open, readFile, rename, stat } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
  type Extension,
  type JsonGeneralNames,
} from '@peculiar/x509';
import { HoldfastError } from '../errors.ts';
import { CERTIFICATE_FILES } from '../identity/certificates.ts';
import { grantUri, type Grant } from '../identity/identity.ts';

/** The authority's own key, beside its certificate `ca.crt`. */
const AUTHORITY_KEY = 'ca.key';
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
/** Clocks differ. */
const BACKDATED_MS = 5 * 60_000;

/** From when to when a certificate is good. */
export interface Validity {
  readonly notBefore: Date;
  readonly notAfter: Date;
}

/** What a certificate says. */
export interface Issue {
  /** The common name, for people. */
  readonly commonName: string;
  readonly grants: readonly Grant[];
  /** DNS names and IP addresses at which it serves; none for a caller. */
  readonly addresses: readonly string[];
}

/** From a few minutes ago, since clocks differ. */
export function validFor(days: number, now = new Date()): Validity {
  return {
    notBefore: new Date(now.getTime() - BACKDATED_MS),
    notAfter: new Date(now.getTime() + days * 24 * 3_600_000),
  };
}

/**
 * Makes an authority in a directory, which is made too: `ca.crt`, and `ca.key` with mode 0600.
 *
 * @throws HoldfastError TARGET_EXISTS, DIRECTORY_UNUSABLE
 */
export async function createAuthority(
  directory: string,
  commonName: string,
  validity: Validity,
): Promise<void> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: [{ CN: [commonName] }],
    ...validity,
    keys,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  await prepare(directory, AUTHORITY_KEY);
  await write(directory, AUTHORITY_KEY, await keyPem(keys.privateKey), 0o600);
  await write(directory, CERTIFICATE_FILES.authority, certificate.toString('pem'), 0o644);
}

/**
 * Issues a certificate, with a new key, into a directory, which is made too: `ca.crt`, `tls.crt`, and `tls.key` with
 * mode 0600.
 *
 * @throws HoldfastError CERTIFICATE_UNUSABLE for the authority, TARGET_EXISTS, DIRECTORY_UNUSABLE
 */
export async function issueCertificate(
  directory: string,
  authorityDirectory: string,
  issue: Issue,
  validity: Validity,
): Promise<void> {
  const names: JsonGeneralNames = [
    ...issue.grants.map((grant) => ({ type: 'url' as const, value: grantUri(grant) })),
    ...issue.addresses.map((value) => ({
      type: isIP(value) === 0 ? ('dns' as const) : ('ip' as const),
      value,
    })),
  ];
  await prepare(directory, CERTIFICATE_FILES.certificate);
  await put(
    directory,
    authorityDirectory,
    [{ CN: [issue.commonName] }],
    new SubjectAlternativeNameExtension(names),
    validity,
  );
}

/**
 * Issues a certificate once more, with a new key, in place of the one that lies in the directory.
 *
 * @throws HoldfastError CERTIFICATE_UNUSABLE for either directory, DIRECTORY_UNUSABLE
 */
export async function renewCertificate(
  directory: string,
  authorityDirectory: string,
  validity: Validity,
): Promise<void> {
  const old = await readCertificate(directory, CERTIFICATE_FILES.certificate);
  const names = old.getExtension(SubjectAlternativeNameExtension);
  if (names === null) {
    throw new HoldfastError(
      'CERTIFICATE_UNUSABLE',
      `The certificate in ${directory} names nobody, and cannot be renewed.`,
    );
  }
  await put(directory, authorityDirectory, old.subjectName.toJSON(), names, validity);
}

async function put(
  directory: string,
  authorityDirectory: string,
  subject: ReturnType<X509Certificate['subjectName']['toJSON']>,
  names: Extension,
  validity: Validity,
): Promise<void> {
  const authority = await readCertificate(authorityDirectory, CERTIFICATE_FILES.authority);
  const signingKey = await readAuthorityKey(authorityDirectory);
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject,
    issuer: authority.subject,
    ...validity,
    publicKey: keys.publicKey,
    signingKey,
    signingAlgorithm: ALGORITHM,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      names,
      await AuthorityKeyIdentifierExtension.create(authority.publicKey),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  await write(directory, CERTIFICATE_FILES.key, await keyPem(keys.privateKey), 0o600);
  await write(directory, CERTIFICATE_FILES.certificate, certificate.toString('pem'), 0o644);
  await write(directory, CERTIFICATE_FILES.authority, authority.toString('pem'), 0o644);
}

/** Makes the directory, and refuses one that is in use. */
async function prepare(directory: string, file: string): Promise<void> {
  await mkdir(directory, { recursive: true, mode: 0o700 }).catch((cause: unknown) => {
    throw unwritable(directory, cause);
  });
  const taken = await stat(join(directory, file)).then(
    () => true,
    () => false,
  );
  if (!taken) return;
  throw new HoldfastError(
    'TARGET_EXISTS',
    `${join(directory, file)} is there already, and is left as it is.`,
  );
}

/** Whole or not at all: who reads them meanwhile sees the old or the new one. */
async function write(directory: string, name: string, text: string, mode: number): Promise<void> {
  const temporary = join(directory, `.${name}.${process.pid}`);
  try {
    await using file = await open(temporary, 'w', mode);
    await file.chmod(mode);
    await file.writeFile(`${text.trimEnd()}\n`);
    await file.sync();
    await rename(temporary, join(directory, name));
  } catch (cause) {
    throw unwritable(directory, cause);
  }
}

async function readCertificate(directory: string, name: string): Promise<X509Certificate> {
  const path = join(directory, name);
  try {
    return new X509Certificate(await readFile(path, 'utf8'));
  } catch (cause) {
    throw new HoldfastError('CERTIFICATE_UNUSABLE', `${path} cannot be used: ${(cause as Error).message}`, {
      cause,
    });
  }
}

async function readAuthorityKey(directory: string): Promise<webcrypto.CryptoKey> {
  const path = join(directory, AUTHORITY_KEY);
  try {
    const [der] = PemConverter.decode(await readFile(path, 'utf8'));
    if (der === undefined) throw new Error('it is not a key in PEM');
    return await crypto.subtle.importKey('pkcs8', der, ALGORITHM, false, ['sign']);
  } catch (cause) {
    throw new HoldfastError('CERTIFICATE_UNUSABLE', `${path} cannot be used: ${(cause as Error).message}`, {
      cause,
    });
  }
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  return PemConverter.encode(await crypto.subtle.exportKey('pkcs8', key), 'PRIVATE KEY');
}

/** Positive, as X.509 wants it. */
function serialNumber(): string {
  const bytes = randomBytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x7f) | 0x40;
  return bytes.toString('hex');
}

function unwritable(directory: string, cause: unknown): HoldfastError {
  return new HoldfastError(
    'DIRECTORY_UNUSABLE',
    `Cannot write into ${directory}: ${(cause as Error).message}`,
    { cause },
  );
}

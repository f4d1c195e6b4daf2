import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { HoldfastError } from '../errors.ts';
import type { Logger } from '../logger.ts';
import { identityOf, type Identity } from './identity.ts';

/** The names of the files in a directory of certificates; cert-manager and Kubernetes call them so too. */
export const CERTIFICATE_FILES = { authority: 'ca.crt', certificate: 'tls.crt', key: 'tls.key' } as const;

const POLL_MS = 5_000;
const DAY_MS = 24 * 3_600_000;
const LONGEST_NOTICE_MS = 30 * DAY_MS;

/** One set of PEM files that belong together, checked. */
export interface CertificateSet {
  readonly authority: Buffer;
  readonly certificate: Buffer;
  readonly key: Buffer;
  readonly identity: Identity;
  readonly notBefore: Date;
  readonly notAfter: Date;
  /** When the first of the authorities ends. */
  readonly authorityNotAfter: Date;
}

/** The certificates of a process, read again whenever their files change. */
export interface Certificates {
  readonly directory: string;
  current(): CertificateSet;
  /** Tells of every new set. Returns what ends that. */
  onChange(listener: (set: CertificateSet) => void): () => void;
  close(): void;
}

/**
 * Reads `ca.crt`, `tls.crt` and `tls.key` from a directory, and again when they change. A set that does not belong
 * together, as while it is being written, is not taken: the one before stays in use, and the log says so.
 *
 * @throws HoldfastError CERTIFICATE_UNUSABLE
 */
export async function openCertificates(
  directory: string,
  logger: Logger,
  pollMs = POLL_MS,
): Promise<Certificates> {
  let files = await readFiles(directory);
  let set = await check(directory, files);
  let complaint = '';
  const listeners = new Set<(set: CertificateSet) => void>();
  logger.info('certificate', describe(set));

  const look = async (): Promise<void> => {
    try {
      const found = await readFiles(directory);
      if (found.every((file, index) => files[index]?.equals(file) === true)) return;
      set = await check(directory, found);
      files = found;
      complaint = '';
    } catch (error) {
      const { message } = error as Error;
      if (message !== complaint) logger.warn('the new certificate is not taken', { problem: message });
      complaint = message;
      return;
    }
    logger.info('certificate renewed', describe(set));
    for (const listener of listeners) listener(set);
  };
  let looking: Promise<void> | undefined;
  const timer = setInterval(() => {
    looking ??= look().finally(() => (looking = undefined));
  }, pollMs).unref();

  return {
    directory,
    current: () => set,
    onChange: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close: () => {
      clearInterval(timer);
      listeners.clear();
    },
  };
}

/** Reads them once. @throws HoldfastError CERTIFICATE_UNUSABLE */
export async function readCertificateSet(directory: string): Promise<CertificateSet> {
  return check(directory, await readFiles(directory));
}

/** For a program that ends soon. @throws HoldfastError CERTIFICATE_UNUSABLE, also when the certificate has expired */
export async function readCertificates(directory: string): Promise<Certificates> {
  const set = await readCertificateSet(directory);
  if (set.notAfter.getTime() < Date.now()) {
    throw unusable(
      `The certificate ${join(directory, CERTIFICATE_FILES.certificate)} has expired, on ${set.notAfter.toISOString()}.`,
    );
  }
  return { directory, current: () => set, onChange: () => () => undefined, close: () => undefined };
}

/** Whether a certificate should be renewed: in the last third of its time, and in its last 30 days if it lives longer. */
export function isRenewalDue(set: Pick<CertificateSet, 'notBefore' | 'notAfter'>, now: Date): boolean {
  const lifetimeMs = set.notAfter.getTime() - set.notBefore.getTime();
  return set.notAfter.getTime() - now.getTime() < Math.min(lifetimeMs / 3, LONGEST_NOTICE_MS);
}

function describe({ identity, notAfter }: CertificateSet): Record<string, string> {
  return { identity: identity.name, notAfter: notAfter.toISOString() };
}

async function readFiles(directory: string): Promise<readonly Buffer[]> {
  const { authority, certificate, key } = CERTIFICATE_FILES;
  try {
    return await Promise.all([authority, certificate, key].map((name) => readFile(join(directory, name))));
  } catch (cause) {
    throw unusable(
      `A certificate cannot be read: ${(cause as Error).message}. ${directory} must hold ca.crt, tls.crt and tls.key.`,
      cause,
    );
  }
}

async function check(directory: string, files: readonly Buffer[]): Promise<CertificateSet> {
  const [authority, certificate, key] = files as readonly [Buffer, Buffer, Buffer];
  const keyFile = join(directory, CERTIFICATE_FILES.key);
  const mode = (await stat(keyFile)).mode & 0o777;
  if ((mode & 0o007) !== 0) {
    throw unusable(
      `Every user can open ${keyFile} (mode ${mode.toString(8)}). Close it: chmod 0600 ${keyFile}`,
    );
  }
  const own = parse(certificate, join(directory, CERTIFICATE_FILES.certificate));
  const authorities = splitPem(authority).map((pem) =>
    parse(pem, join(directory, CERTIFICATE_FILES.authority)),
  );
  if (authorities.length === 0)
    throw unusable(`There is no certificate in ${join(directory, CERTIFICATE_FILES.authority)}.`);
  if (!matches(own, key)) throw unusable(`${keyFile} is not the key of the certificate beside it.`);
  const { subject, subjectaltname } = own.toLegacyObject();
  const identity = identityOf({ subject, ...(subjectaltname === undefined ? {} : { subjectaltname }) });
  if (identity.grants.length === 0) {
    throw unusable(
      `The certificate in ${directory} has no URI that gives it a role, such as holdfast://operator/zones/home.`,
    );
  }
  return {
    ...{ authority, certificate, key, identity },
    notBefore: own.validFromDate,
    notAfter: own.validToDate,
    authorityNotAfter: new Date(Math.min(...authorities.map((each) => each.validToDate.getTime()))),
  };
}

function parse(pem: Buffer | string, file: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (cause) {
    throw unusable(`${file} is not a certificate in PEM.`, cause);
  }
}

function matches(certificate: X509Certificate, key: Buffer): boolean {
  try {
    return certificate.checkPrivateKey(createPrivateKey(key));
  } catch {
    return false;
  }
}

function splitPem(text: Buffer): string[] {
  return text.toString('latin1').match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
}

function unusable(message: string, cause?: unknown): HoldfastError {
  return new HoldfastError('CERTIFICATE_UNUSABLE', message, { cause });
}

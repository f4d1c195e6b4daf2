import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openCertificates, type Certificates } from '../identity/certificates.ts';
import { parseGrant } from '../identity/identity.ts';
import { silentLogger } from '../logger.ts';
import { createAuthority, issueCertificate, validFor, type Validity } from './pki.ts';

/** An authority in a temporary directory, and what it issues. */
export interface TestPki extends AsyncDisposable {
  readonly directory: string;
  readonly authorityDirectory: string;
  /** A directory with a certificate that has these URIs, for loopback. */
  issue(uris: readonly string[], validity?: Validity): Promise<string>;
  /** The same, read. Closed at the end. */
  certificates(uris: readonly string[], validity?: Validity): Promise<Certificates>;
}

export async function makeTestPki(): Promise<TestPki> {
  const directory = await mkdtemp(join(tmpdir(), 'holdfast-pki-'));
  const authorityDirectory = join(directory, 'ca');
  const opened: Certificates[] = [];
  let issued = 0;
  await createAuthority(authorityDirectory, 'test authority', validFor(365));
  const issue: TestPki['issue'] = async (uris, validity = validFor(90)) => {
    const target = join(directory, `${++issued}`);
    const grants = uris.map((uri) => {
      const grant = parseGrant(uri);
      if (grant === undefined) throw new Error(`${uri} gives no role`);
      return grant;
    });
    const addresses = ['127.0.0.1', 'localhost'];
    await issueCertificate(
      target,
      authorityDirectory,
      { commonName: `test ${issued}`, grants, addresses },
      validity,
    );
    return target;
  };
  return {
    directory,
    authorityDirectory,
    issue,
    certificates: async (uris, validity) => {
      const certificates = await openCertificates(await issue(uris, validity), silentLogger, 50);
      opened.push(certificates);
      return certificates;
    },
    [Symbol.asyncDispose]: async () => {
      for (const certificates of opened) certificates.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

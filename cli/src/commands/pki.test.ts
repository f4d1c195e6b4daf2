import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { mkdtempDisposable, readFile, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { run } from '../run.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';

describe('pki', () => {
  const pki = async (...argv: string[]): Promise<{ code: number; out: string; err: string }> => {
    const terminal = fakeTerminal();
    const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
    const code = await run(['--json', 'pki', ...argv], { terminal, loadParts });
    return { code, ...terminal.printed };
  };

  it('makes an authority, and issues and renews what it signs', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-pki-'));
    const [ca, own] = [join(root.path, 'ca'), join(root.path, 'own')];
    assert.equal((await pki('create', ca)).code, 0);
    const issued = await pki(
      ...['issue', own, '--ca', ca, '--role', 'operator', '--zone', 'z1', '--zone', 'z2'],
      ...['--name', 'alice', '--address', '10.0.0.1', '--address', 'h.example', '--days', '7'],
    );
    assert.equal(issued.code, 0, issued.err);
    const { uris, notAfter } = JSON.parse(issued.out) as { uris: string[]; notAfter: string };
    assert.deepEqual(uris, ['holdfast://operator/zones/z1', 'holdfast://operator/zones/z2']);
    assert.ok(Math.abs(Date.parse(notAfter) - Date.now() - 7 * 24 * 3_600_000) < 60_000);

    const authority = new X509Certificate(await readFile(join(ca, 'ca.crt')));
    const read = async () => new X509Certificate(await readFile(join(own, 'tls.crt')));
    const first = await read();
    assert.equal((await pki('renew', own, '--ca', ca)).code, 0);
    const second = await read();
    for (const certificate of [first, second]) {
      assert.ok(certificate.verify(authority.publicKey) && certificate.checkIssued(authority));
      assert.equal(certificate.subject, 'CN=alice');
      assert.match(certificate.subjectAltName ?? '', /DNS:h\.example/);
      assert.ok(certificate.checkIP('10.0.0.1'));
    }
    assert.notEqual(
      first.publicKey.export({ type: 'spki', format: 'pem' }),
      second.publicKey.export({ type: 'spki', format: 'pem' }),
    );
    assert.ok(second.validToDate > first.validToDate);
    for (const file of [join(ca, 'ca.key'), join(own, 'tls.key')])
      assert.equal((await stat(file)).mode & 0o777, 0o600, file);
  });

  it('overwrites nothing, and refuses what would be of no use', async () => {
    await using root = await mkdtempDisposable(join(tmpdir(), 'holdfast-pki-'));
    const ca = join(root.path, 'ca');
    await pki('create', ca);
    const key = await readFile(join(ca, 'ca.key'), 'utf8');
    assert.match((await pki('create', ca)).err, /TARGET_EXISTS/);
    assert.equal(await readFile(join(ca, 'ca.key'), 'utf8'), key);
    const own = join(root.path, 'own');
    const lines: [readonly string[], RegExp][] = [
      [['issue', own, '--ca', ca, '--role', 'agent', '--zone', 'z'], /one --host/],
      [['issue', own, '--ca', ca, '--role', 'agent', '--zone', 'z', '--host', 'h'], /--address/],
      [['issue', own, '--ca', ca, '--role', 'viewer', '--host', 'h'], /--role agent/],
      [['issue', own, '--ca', ca, '--role', 'viewer', '--zone', '../z'], /cannot have/],
      [['issue', own, '--ca', ca, '--role', 'root'], /root/],
      [['issue', own, '--ca', ca, '--role', 'viewer', '--days', '0'], /days/],
      [['issue', own, '--ca', own, '--role', 'viewer'], /CERTIFICATE_UNUSABLE/],
      [['renew', own, '--ca', ca], /CERTIFICATE_UNUSABLE/],
      [['show', ca], /CERTIFICATE_UNUSABLE/],
    ];
    for (const [argv, words] of lines) {
      const { code, err } = await pki(...argv);
      assert.notEqual(code, 0, argv.join(' '));
      assert.match(err, words, argv.join(' '));
    }
  });
});

import assert from 'node:assert/strict';
import fc from 'fast-check';
import { grpcTarget, parseAddress, requireLocal, type Address } from './address.ts';
import { HoldfastError } from './errors.ts';

describe('an address', () => {
  const good: Record<string, Address> = {
    'unix:///run/a.sock': { kind: 'unix', path: '/run/a.sock' },
    'unix:/run/a.sock': { kind: 'unix', path: '/run/a.sock' },
    'unix:///run/sp ace,ö.sock': { kind: 'unix', path: '/run/sp ace,ö.sock' },
    '127.0.0.1:0': { kind: 'tcp', host: '127.0.0.1', port: 0 },
    'localhost:65535': { kind: 'tcp', host: 'localhost', port: 65_535 },
    '[::1]:7600': { kind: 'tcp', host: '::1', port: 7600 },
  };
  for (const [text, address] of Object.entries(good)) {
    it(`is read from ${text}`, () => {
      assert.deepEqual(parseAddress(text), address);
    });
  }

  for (const text of [
    ...['', 'unix:', 'unix://relative', 'unix:run/a', '7600', ':7600', 'host', 'host:', 'host:65536'],
    ...[
      'host:-1',
      '::1:7600',
      'http://127.0.0.1:80',
      'a b:80',
      '127.0.0.1:80/x',
      `unix:///${'x'.repeat(107)}`,
    ],
  ]) {
    it(`is not read from ${JSON.stringify(text.slice(0, 30))}`, () => {
      assert.throws(() => parseAddress(text), { reason: 'INVALID_REQUEST' });
    });
  }

  it('may have a socket path as long as the kernel takes, counted in bytes', () => {
    assert.equal(parseAddress(`unix:///${'x'.repeat(106)}`).kind, 'unix');
    assert.throws(() => parseAddress(`unix:///${'ö'.repeat(60)}`), { reason: 'INVALID_REQUEST' });
  });

  it('is either read or refused, whatever it is', () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        try {
          grpcTarget(parseAddress(text));
          return true;
        } catch (error) {
          return error instanceof HoldfastError;
        }
      }),
    );
  });

  it('must not be one that other machines reach', () => {
    for (const local of ['127.0.0.1:1', '127.8.9.10:1', '[::1]:1', 'localhost:1', 'unix:///a']) {
      requireLocal(parseAddress(local));
    }
    for (const remote of [
      ...['0.0.0.0:1', '[::]:1', '10.0.0.1:1', 'example.org:1', '127.0.0.1.evil.org:1'],
      ...['[::ffff:10.0.0.1]:1', 'localhost.evil.org:1', '1127.0.0.1:1'],
    ]) {
      assert.throws(
        () => {
          requireLocal(parseAddress(remote));
        },
        { reason: 'INVALID_REQUEST' },
        remote,
      );
    }
  });
});

import assert from 'node:assert/strict';
import fc from 'fast-check';
import { grantUri, hasRole, identityOf, namesOf, parseGrant, type Role } from './identity.ts';

const subject = { CN: 'alice' } as Parameters<typeof identityOf>[0]['subject'];

describe('an identity', () => {
  it('has the roles that its URIs say, in their zones', () => {
    const identity = identityOf({
      subject,
      subjectaltname:
        'DNS:h1.example, URI:holdfast://operator/zones/home, URI:holdfast://viewer, IP Address:::1',
    });
    assert.equal(identity.name, 'alice (holdfast://operator/zones/home, holdfast://viewer)');
    const table: [readonly Role[], string | undefined, boolean][] = [
      [['operator'], 'home', true],
      [['operator'], 'away', false],
      [['operator'], undefined, false],
      [['viewer'], 'away', true],
      [['viewer'], undefined, true],
      [['admin'], 'home', false],
    ];
    for (const [roles, zone, expected] of table) assert.equal(hasRole(identity, roles, zone), expected);
  });

  it('has nothing by a URI that is not quite ours', () => {
    for (const uri of [
      'holdfast://root',
      'holdfast://operator/',
      'holdfast://operator/zones/',
      'holdfast://operator/zones/a/b',
      'holdfast://operator/zones/home/hosts/h1',
      'holdfast://agent/zones/home',
      'holdfast://agent',
      'https://operator/zones/home',
      ' holdfast://admin',
      'holdfast://admin\n',
      'HOLDFAST://admin',
    ])
      assert.equal(parseGrant(uri), undefined, uri);
  });

  it('is not taken in by names that look like a list', () => {
    for (const text of [
      'DNS:"a, URI:holdfast://admin"',
      'DNS:"x\\", URI:holdfast://admin"',
      'URI:"holdfast://viewer, URI:holdfast://admin"',
      'DNS:a"b, URI:holdfast://admin',
    ])
      assert.deepEqual(identityOf({ subject, subjectaltname: text }).grants, [], text);
    assert.deepEqual(namesOf('URI:"holdfast://a,b", DNS:x', 'URI'), ['holdfast://a,b']);
  });

  it('is written as it is read', () => {
    const name = fc.stringMatching(/^[\w.-]{1,63}$/);
    fc.assert(
      fc.property(name, name, (zone, host) => {
        const grant = { role: 'agent' as const, zone, host };
        assert.deepEqual(parseGrant(grantUri(grant)), grant);
      }),
    );
  });
});

import assert from 'node:assert/strict';
import { inspect } from 'node:util';
import { Secret } from './secret.ts';

const TEXT = 'correct horse battery staple';

describe('a secret', () => {
  const secret = new Secret(TEXT);
  const prints: Record<string, () => string> = {
    JSON: () => JSON.stringify({ nested: [secret] }),
    inspect: () => inspect({ secret }, { depth: 9, showHidden: true }),
    'a template': () => `${secret.toString()} ${String(secret)}`,
    concatenation: () => ['', secret].join('-'),
    'its own keys': () => JSON.stringify([Object.entries(secret), Reflect.ownKeys(secret)]),
    'a copy': () => JSON.stringify(Object.assign({}, secret)),
    'an error message': () => inspect(new Error('with a cause', { cause: secret })),
  };
  for (const [name, print] of Object.entries(prints)) {
    it(`is not printed by ${name}`, () => {
      assert.equal(print().includes(TEXT), false);
    });
  }

  it('is given away by reveal alone', () => {
    assert.equal(secret.reveal(), TEXT);
  });
});

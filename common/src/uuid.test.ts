import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { isUuid } from './uuid.ts';

describe('isUuid', () => {
  it('takes a UUID in its usual form, and nothing else', () => {
    const uuid = randomUUID();
    assert.equal(isUuid(uuid), true);
    for (const text of [
      '',
      uuid.toUpperCase(),
      ` ${uuid}`,
      `${uuid}\n`,
      `{${uuid}}`,
      uuid.replaceAll('-', ''),
    ])
      assert.equal(isUuid(text), false, JSON.stringify(text));
  });
});

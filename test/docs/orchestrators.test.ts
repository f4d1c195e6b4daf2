import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { status } from '@grpc/grpc-js';
import { reasons } from '@holdfast/common/reasons.ts';
import { PAGE, withReasons } from './reasons.ts';

describe('docs/orchestrators.md', () => {
  it('has the table of reasons that the code has; if not: node test/docs/reasons.ts', async () => {
    const page = await readFile(PAGE, 'utf8');
    assert.equal(page, await withReasons(page));
    assert.ok(page.includes('`DOMAIN_BUSY`'));
  });

  it('says of every code that there is what to do', async () => {
    const page = await readFile(PAGE, 'utf8');
    const said = [...page.matchAll(/^\| `([A-Z_]+)`\s+\|[^|]+\|[^|]+\|$/gm)].map(([, code]) => code);
    for (const code of new Set<number>(Object.values(reasons)))
      assert.ok(said.includes(status[code]), status[code]);
  });
});

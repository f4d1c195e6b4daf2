import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { status } from '@grpc/grpc-js';
import { reasons } from '@holdfast/common/reasons.ts';

describe('docs/errors.md', () => {
  it('has a row for every reason, with its gRPC code, and for nothing else', async () => {
    const page = await readFile(path.resolve(import.meta.dirname, '../../docs/errors.md'), 'utf8');
    const rows = [...page.matchAll(/^\| `([A-Z_]+)`\s*\| ([A-Z_]+)\s*\|/gm)].map(([, name, code]) => [
      name,
      code,
    ]);
    assert.deepEqual(
      rows,
      Object.entries(reasons).map(([name, code]) => [name, status[code]]),
    );
  });
});

import assert from 'node:assert/strict';
import { glob, readFile } from 'node:fs/promises';
import path from 'node:path';

const ROOT = path.resolve(import.meta.dirname, '../..');

describe('docs/cloudstack.md', () => {
  it('names tests that are there', async () => {
    const page = await readFile(path.join(ROOT, 'docs/cloudstack.md'), 'utf8');
    const table = page.slice(page.indexOf('and what proves them'));
    const titles = [...table.matchAll(/^\| .+? \| (?<title>.+?) +\|$/gm)]
      .map((row) => row.groups?.['title'] ?? '')
      .filter((title) => title !== 'test' && !title.startsWith('---'));
    assert.ok(titles.length > 20, `${titles.length} rows`);
    const found = await testTitles();
    const missing = titles.filter((title) => !found.has(title));
    assert.deepEqual(missing, []);
  });
});

/** The titles of all tests, as they stand in the sources. */
async function testTitles(): Promise<ReadonlySet<string>> {
  const titles = new Set<string>();
  for await (const file of glob('{test,agent/src}/**/*.test.ts', {
    cwd: ROOT,
    exclude: ['**/node_modules'],
  })) {
    const source = await readFile(path.join(ROOT, file), 'utf8');
    for (const [, title = ''] of source.matchAll(/\b(?:it|line)\(\s*'((?:[^'\\]|\\.)+)'/g)) titles.add(title);
  }
  return titles;
}

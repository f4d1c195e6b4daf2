/**
 * Puts the table of corpus.json into docs/integrity.md, between its two marks.
 *
 *     node test/e2e-long/corpus/render.ts
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { LEVELS, mustFind, RESULTS_FILE, type Row } from './results.ts';

const PAGE = path.resolve(import.meta.dirname, '../../../docs/integrity.md');
const BEGIN = '<!-- table: node test/e2e-long/corpus/render.ts -->';
const END = '<!-- end of table -->';

const rows = JSON.parse(await readFile(RESULTS_FILE, 'utf8')) as readonly Row[];
const regions = [...new Set(rows.map(({ region }) => region))];
const lines = [
  ['damage', ...LEVELS],
  ['---', '---', '---', '---'],
  ...regions.map((region) => [region, ...LEVELS.map((level) => cell(region, level))]),
];
const table = lines.map((cells) => `| ${cells.join(' | ')} |`).join('\n');
const page = await readFile(PAGE, 'utf8');
const before = page.slice(0, page.indexOf(BEGIN) + BEGIN.length);
await writeFile(PAGE, `${before}\n\n${table}\n\n${page.slice(page.indexOf(END))}`);
await execa('prettier', ['--write', PAGE], { preferLocal: true });

function cell(region: string, level: (typeof LEVELS)[number]): string {
  const of = rows.filter((row) => row.region === region && row.level === level);
  const found = of.filter((row) => row.found).length;
  const count = `${found} of ${of.length}`;
  return mustFind(region, level) ? `**${count}**` : count;
}

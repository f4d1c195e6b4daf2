/**
 * Puts the table of faults.json into docs/reliability.md, between its two marks.
 *
 *     node test/faults/matrix/render.ts
 */
import { readFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { execa } from 'execa';
import { allCases, caseName, faultName, MOMENTS, type Case, type OperationName } from './cases.ts';
import type { Row } from './perform.ts';
import { readRows } from './results.ts';

const PAGE = path.resolve(import.meta.dirname, '../../../docs/reliability.md');
const BEGIN = '<!-- table: node test/faults/matrix/render.ts -->';
const END = '<!-- end of table -->';

const rows = new Map((await readRows()).map((row) => [row.case, row]));
const cases = allCases();
const page = await readFile(PAGE, 'utf8');
const before = page.slice(0, page.indexOf(BEGIN) + BEGIN.length);
const after = page.slice(page.indexOf(END));
await writeFile(PAGE, `${before}\n\n${[summary(), ...tables()].join('\n\n')}\n\n${after}`);
await execa('prettier', ['--write', PAGE], { preferLocal: true });

function summary(): string {
  const run = cases.flatMap((each) => rows.get(caseName(each)) ?? []);
  const survived = run.filter(isSurvived);
  const stalls = run.flatMap(({ transport, guestStallMs }) =>
    guestStallMs === null ? [] : [{ transport, guestStallMs }],
  );
  const longest = ['pull', 'push', 'stopped'].map((transport) => {
    const of = stalls.filter((each) => each.transport === transport).map(({ guestStallMs }) => guestStallMs);
    return `${Math.max(0, ...of)} ms (${transport})`;
  });
  return (
    `${run.length} of ${cases.length} cases were run, ${survived.length} were survived. ` +
    `The longest wait of a write of the running guest: ${longest.join(', ')}.`
  );
}

/** One for each operation and transport: a line for each fault, a column for each stage. */
function tables(): readonly string[] {
  const kinds = new Map(
    cases.map(({ operation, transport }) => [`${operation}, ${transport}`, { operation, transport }]),
  );
  return [...kinds].map(([title, { operation, transport }]) => {
    const here = cases.filter((each) => each.operation === operation && each.transport === transport);
    const faults = new Set(here.map(({ fault }) => faultName(fault)));
    const stages = MOMENTS[operation].map(({ stage }) => stage);
    const lines = [...faults].map((fault) => [
      fault,
      ...stages.map((stage) =>
        cell(here.find((each) => faultName(each.fault) === fault && each.stage === stage)),
      ),
    ]);
    return [
      `### ${headline(operation, title)}`,
      '',
      ...[['fault', ...stages], stages.concat('').map(() => '---'), ...lines].map(line),
    ].join('\n');
  });
}

function headline(operation: OperationName, title: string): string {
  return operation === 'backup' ? title : operation;
}

function line(cells: readonly string[]): string {
  return `| ${cells.join(' | ')} |`;
}

function cell(each: Case | undefined): string {
  if (each === undefined) return '';
  const row = rows.get(caseName(each));
  if (row === undefined) return 'not run';
  const end = row.outcome.state === 'succeeded' ? 'succeeded' : `\`${row.outcome.reason}\``;
  const stall = row.guestStallMs === null ? '' : `, ${row.guestStallMs} ms`;
  return isSurvived(row) ? `${end}${stall}` : `**not survived**: ${end}${stall}`;
}

function isSurvived({ problems, leftovers }: Row): boolean {
  return problems.length === 0 && leftovers.length === 0;
}

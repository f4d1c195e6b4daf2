import { safe } from './text.ts';

/** A column: its heading and on which side its cells are lined up. */
export interface Column {
  readonly title: string;
  readonly align?: 'left' | 'right';
}

const GAP = '  ';

/** Lines of a table, without colours and without trailing blanks. Cells are made safe to print. */
export function table(columns: readonly Column[], rows: readonly (readonly string[])[]): string[] {
  const cells = [columns.map((column) => column.title), ...rows.map((row) => row.map(safe))];
  const widths = columns.map((_, at) => Math.max(...cells.map((row) => width(row[at] ?? ''))));
  return cells.map((row) =>
    columns
      .map((column, at) => pad(row[at] ?? '', widths[at] ?? 0, column.align ?? 'left'))
      .join(GAP)
      .trimEnd(),
  );
}

/** Lines of `name  value` pairs, values lined up. */
export function pairs(entries: readonly (readonly [name: string, value: string])[]): string[] {
  const widest = Math.max(0, ...entries.map(([name]) => width(name)));
  return entries.map(([name, value]) => `${pad(name, widest, 'left')}${GAP}${safe(value)}`.trimEnd());
}

function pad(text: string, to: number, align: 'left' | 'right'): string {
  const blanks = ' '.repeat(Math.max(0, to - width(text)));
  return align === 'left' ? text + blanks : blanks + text;
}

const graphemes = new Intl.Segmenter();

function width(text: string): number {
  return Array.from(graphemes.segment(text)).length;
}

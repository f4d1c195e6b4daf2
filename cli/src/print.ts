import type { Running } from './context.ts';
import { jsonLine } from './format/text.ts';

interface Message<Item> {
  toJSON(item: Item): unknown;
}

/** Prints a list: a line of JSON for each, or a table for people. */
export function printList<Item>(
  { terminal, json }: Pick<Running, 'terminal' | 'json'>,
  message: Message<Item>,
  items: readonly Item[],
  toTable: (items: readonly Item[]) => readonly string[],
): void {
  const lines = json ? items.map((item) => jsonLine(message.toJSON(item))) : toTable(items);
  for (const line of lines) terminal.out.write(`${line}\n`);
}

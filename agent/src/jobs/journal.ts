import { open, readFile, type FileHandle } from 'node:fs/promises';
import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { JournaledRef } from '../repository/repository.ts';
import type { UndoAction } from './undo.ts';
import { inTurn } from '../process/inTurn.ts';

/** A line of a job's journal: what happened, what was made, and how far the last step got. */
export type JournalEntry =
  | { readonly kind: 'event'; readonly event: unknown }
  | { readonly kind: 'undo'; readonly id: number; readonly action: UndoAction }
  | { readonly kind: 'undone'; readonly id: number }
  | {
      readonly kind: 'publishing';
      readonly repository: JournaledRef;
      readonly folder: string;
      /** Empty for a layout without a manifest. */
      readonly manifestSha256: string;
      /** The result of the job once the folder has its final name, as JSON. */
      readonly result: unknown;
    };

/** The journal of a job: lines of JSON in a file on local disk, each durable before append() returns. */
export interface Journal {
  append(entry: JournalEntry): Promise<void>;
  close(): Promise<void>;
}

/** Opens a journal for appending, after what is there. */
export async function openJournal(path: string): Promise<Journal> {
  const file = await open(path, 'a', 0o600);
  // A line that a crash cut off must not swallow the next one.
  const existing = await readFile(path);
  if (existing.length > 0 && existing.at(-1) !== 0x0a) await file.write('\n');
  return inOrder(file);
}

/** The entries of a journal; none when there is no journal. A line cut off by a crash was never acted upon. */
export async function readJournal(path: string): Promise<readonly JournalEntry[]> {
  const text = await readFile(path, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  });
  return text.split('\n').flatMap((line) => {
    try {
      return [JSON.parse(line) as JournalEntry];
    } catch {
      return [];
    }
  });
}

/** The events in a journal, in order. */
export function journaledEvents(entries: readonly JournalEntry[]): readonly OperationEvent[] {
  return entries
    .filter((entry) => entry.kind === 'event')
    .map((entry) => OperationEvent.fromJSON(entry.event));
}

/** Whether an event is the last one of its job. */
export function isTerminal(event: OperationEvent): boolean {
  return event.event?.$case === 'completed' || event.event?.$case === 'failed';
}

/** One append after the other, so that lines never mix. */
function inOrder(file: FileHandle): Journal {
  const take = inTurn();
  const write = async (entry: JournalEntry): Promise<void> => {
    await file.write(`${JSON.stringify(entry)}\n`);
    await file.datasync();
  };
  return {
    append: (entry) => take(() => write(entry)),
    close: () => take(() => file.close()),
  };
}

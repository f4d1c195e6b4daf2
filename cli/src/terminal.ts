import type { Secret } from '@holdfast/common/secret.ts';

/** Somewhere to write text to. */
export interface Output {
  write(text: string): void;
  /** Whether a person looks at it. */
  readonly isTerminal: boolean;
  /** How many characters fit into a line now. */
  columns(): number;
}

/** Lines that are redrawn in place, at the bottom of what was printed. */
export interface Canvas {
  /** Replaces what was drawn. */
  draw(text: string): void;
  /** Prints above the drawing, for good. */
  persist(text: string): void;
  /** Takes the drawing away. */
  clear(): void;
  /** Leaves the drawing where it is; nothing is drawn after it. */
  done(): void;
}

/** One answer that can be picked. */
export interface Choice<Value extends string> {
  readonly value: Value;
  readonly label: string;
}

/** Everything that a command may know of the world around it. Only the root makes a real one. */
export interface Terminal {
  readonly out: Output;
  readonly err: Output;
  /** Whether somebody can be asked. */
  readonly interactive: boolean;
  readonly environment: Readonly<Record<string, string | undefined>>;
  readonly hostName: string;
  canvas(): Canvas;
  /** Reads a whole text file; `-` is standard input. */
  readTextFile(path: string): Promise<string>;
  /** Reads a whole text file that nobody but its owner may read. @throws CommandError when others may */
  readPrivateFile(path: string): Promise<string>;
  /** Asks for a secret without showing it. */
  askSecret(question: string): Promise<Secret>;
  /** Asks yes or no; no when the question is cancelled. */
  confirm(question: string): Promise<boolean>;
  /** Asks to pick; undefined when the question is cancelled, by Ctrl-C or by the signal. */
  choose<Value extends string>(
    question: string,
    choices: readonly Choice<Value>[],
    signal: AbortSignal,
  ): Promise<Value | undefined>;
  /** Calls back at SIGINT and SIGTERM, which then do not end the process, until the returned function is called. */
  onInterrupt(listener: (signal: 'SIGINT' | 'SIGTERM') => void): () => void;
  /** Waits; ends early, without an error, when the signal aborts. */
  wait(milliseconds: number, signal?: AbortSignal): Promise<void>;
  /** Milliseconds from a clock that never jumps. */
  nowMs(): number;
}

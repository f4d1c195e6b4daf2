import { Secret } from '@holdfast/common/secret.ts';
import type { Terminal } from '../terminal.ts';

/** A terminal that remembers what was printed and answers what it was told to. */
export interface FakeTerminal extends Terminal {
  readonly printed: { out: string; err: string; drawn: string[] };
  /** What the questions were. */
  readonly asked: string[];
  /** Sends a signal to whoever listens. */
  interrupt(signal: 'SIGINT' | 'SIGTERM'): void;
}

export interface FakeTerminalOptions {
  readonly isTerminal?: boolean;
  readonly environment?: Readonly<Record<string, string>>;
  readonly files?: Readonly<Record<string, string>>;
  /** The answers to questions in their order; a question without one is cancelled. */
  readonly answers?: readonly string[];
}

export function fakeTerminal(options: FakeTerminalOptions = {}): FakeTerminal {
  const isTerminal = options.isTerminal ?? false;
  const printed = { out: '', err: '', drawn: [] as string[] };
  const asked: string[] = [];
  const answers = [...(options.answers ?? [])];
  const listeners = new Set<(signal: 'SIGINT' | 'SIGTERM') => void>();
  const answer = (question: string): string | undefined => {
    asked.push(question);
    return answers.shift();
  };
  const readTextFile = (path: string): Promise<string> => {
    const text = options.files?.[path];
    if (text === undefined) return Promise.reject(Object.assign(new Error('no file'), { code: 'ENOENT' }));
    return Promise.resolve(text);
  };
  let nowMs = 0;
  return {
    printed,
    asked,
    interactive: isTerminal,
    environment: options.environment ?? {},
    hostName: 'here',
    out: { isTerminal, columns: () => 120, write: (text) => void (printed.out += text) },
    err: { isTerminal, columns: () => 120, write: (text) => void (printed.err += text) },
    canvas: () => ({
      draw: (text) => void printed.drawn.push(text),
      persist: (text) => void (printed.out += `${text}\n`),
      clear: () => undefined,
      done: () => undefined,
    }),
    readTextFile,
    readPrivateFile: readTextFile,
    askSecret: (question) => Promise.resolve(new Secret(answer(question) ?? '')),
    confirm: (question) => Promise.resolve(answer(question) === 'yes'),
    choose: (question, choices) => {
      const given = answer(question);
      return Promise.resolve(choices.find(({ value }) => value === given)?.value);
    },
    onInterrupt: (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    interrupt: (signal) => {
      for (const listener of listeners) listener(signal);
    },
    // Time goes by at once: a wait is a turn of the event loop.
    wait: (milliseconds) => {
      nowMs += milliseconds;
      return new Promise((resolve) => setImmediate(resolve));
    },
    nowMs: () => nowMs,
  };
}

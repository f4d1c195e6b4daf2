import type { Terminal } from '../terminal.ts';
import type { View } from './view.ts';

/**
 * What Ctrl-C does while an operation is followed:
 *
 *     watching ── interrupt, somebody can be asked ──▶ asking ── leave, or a second interrupt ──▶ left
 *        │  ▲                                            │
 *        │  └───────── go on watching, cancel ───────────┘
 *        └── interrupt, nobody can be asked, or SIGTERM ──▶ left
 */
type State = 'watching' | 'asking' | 'left';

export interface InterruptParts {
  readonly terminal: Terminal;
  /** Whether to ask; otherwise the first interrupt leaves. */
  readonly ask: boolean;
  readonly view: View;
  /** Asks the controller to cancel the operation; following goes on to its end. */
  readonly cancel: () => Promise<void>;
  /** Stops following; the operation goes on. */
  readonly leave: () => void;
}

/** Starts to listen for interrupts; the returned function stops it, and takes an open question away. */
export function listenForInterrupts(parts: InterruptParts): () => void {
  const { terminal, view } = parts;
  const over = new AbortController();
  let state: State = 'watching';

  const leave = (): void => {
    state = 'left';
    over.abort();
    parts.leave();
  };
  const ask = async (): Promise<void> => {
    state = 'asking';
    view.suspend();
    const answer = await terminal.choose(QUESTION, CHOICES, over.signal);
    if (over.signal.aborted) return;
    if (answer === 'leave' || answer === undefined) {
      leave();
      return;
    }
    state = 'watching';
    view.resume();
    if (answer === 'watch') return;
    view.notice('Cancelling.');
    await parts.cancel().catch((error: unknown) => {
      view.notice(`Cancelling failed: ${error instanceof Error ? error.message : String(error)}`);
    });
  };
  const stopListening = terminal.onInterrupt((signal) => {
    if (state === 'watching' && parts.ask && signal === 'SIGINT') void ask();
    else if (state !== 'left') leave();
  });
  return () => {
    stopListening();
    over.abort();
  };
}

const QUESTION = 'The operation is still running.';

const CHOICES = [
  { value: 'leave', label: 'Leave it running' },
  { value: 'cancel', label: 'Cancel it' },
  { value: 'watch', label: 'Go on watching' },
] as const;

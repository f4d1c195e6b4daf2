import { OperationEvent } from '@holdfast/proto/holdfast/v1/event.ts';
import type { Running } from '../context.ts';
import { jsonLine, safe } from '../format/text.ts';
import { plainLines, plainStart } from '../progress/lines.ts';
import { damageLine, renderProgress, warningLine } from '../progress/render.ts';
import { resultLines } from '../progress/result.ts';
import { advance, noProgress } from '../progress/state.ts';

/** Where an operation is shown while it is followed. */
export interface View {
  event(event: OperationEvent): void;
  /** Something about the following itself. Goes to stderr. */
  notice(text: string): void;
  /** Makes room for a question. */
  suspend(): void;
  resume(): void;
  /** Leaves the screen in order. May be called twice. */
  close(): void;
}

/** The view that fits: JSON when asked for, redrawn on a terminal, lines otherwise. */
export function openView(running: Running): View {
  if (running.json) return jsonView(running);
  return running.terminal.out.isTerminal ? liveView(running) : plainView(running);
}

function jsonView({ terminal }: Running): View {
  return {
    ...quiet,
    event: (event) => {
      terminal.out.write(`${jsonLine(OperationEvent.toJSON(event))}\n`);
    },
    notice: (text) => {
      terminal.err.write(`${jsonLine({ notice: text })}\n`);
    },
  };
}

function plainView({ terminal }: Running): View {
  let state = plainStart;
  return {
    ...quiet,
    event: (event) => {
      const next = plainLines(state, event);
      state = next.state;
      for (const line of [...next.lines, ...completedLines(event)]) terminal.out.write(`${line}\n`);
    },
    notice: (text) => {
      terminal.err.write(`holdfast: ${safe(text)}\n`);
    },
  };
}

/** At most five frames a second: more is flicker, and work for the terminal. */
const FRAME_MS = 200;

function liveView({ terminal, paint }: Running): View {
  const canvas = terminal.canvas();
  const closed = new AbortController();
  let progress = noProgress;
  let suspended = false;
  let scheduled = false;
  let stale = false;
  // What is said while a question is open; printing it would tear the question apart.
  let held: string[] = [];

  const say = (line: string): void => {
    if (suspended) held.push(line);
    else canvas.persist(line);
  };
  const unsuspend = (): void => {
    suspended = false;
    for (const line of held) canvas.persist(line);
    held = [];
  };
  const draw = (): void => {
    stale = false;
    canvas.draw(renderProgress(progress, terminal.out.columns(), paint).join('\n'));
  };
  const drawSoon = (): void => {
    stale = true;
    if (suspended || scheduled || closed.signal.aborted) return;
    draw();
    scheduled = true;
    void terminal.wait(FRAME_MS, closed.signal).then(() => {
      scheduled = false;
      if (stale) drawSoon();
    });
  };
  return {
    event: (event) => {
      progress = advance(progress, event);
      if (event.event?.$case === 'warning') {
        say(paint.attention(warningLine(event.event.value)));
      }
      if (event.event?.$case === 'damageFound') say(paint.attention(damageLine(event.event.value)));
      drawSoon();
    },
    notice: (text) => {
      say(paint.attention(safe(text)));
    },
    suspend: () => {
      suspended = true;
      canvas.clear();
    },
    resume: () => {
      unsuspend();
      drawSoon();
    },
    close: () => {
      if (closed.signal.aborted) return;
      unsuspend();
      draw();
      closed.abort();
      canvas.done();
      const { outcome } = progress;
      if (outcome?.kind !== 'completed') return;
      for (const line of resultLines(outcome.completed)) terminal.out.write(`${line}\n`);
    },
  };
}

function completedLines({ event }: OperationEvent): string[] {
  return event?.$case === 'completed' ? resultLines(event.value) : [];
}

const quiet = { suspend: () => undefined, resume: () => undefined, close: () => undefined };

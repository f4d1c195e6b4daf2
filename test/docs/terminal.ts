import { execa } from 'execa';

/** What a person would see on a terminal, all of it, and how it ended. */
export interface Seen {
  readonly exitCode: number | undefined;
  readonly screen: string;
}

/**
 * Runs a script of bash on a terminal of its own, where it stops at the first error, and types an answer to each question.
 *
 * @param question what stands on the screen when an answer is waited for
 */
export async function onTerminal(scriptFile: string, question: string, answer: string): Promise<Seen> {
  const running = execa('script', ['-qec', `bash -euo pipefail '${scriptFile}'`, '/dev/null'], {
    reject: false,
    timeout: 120_000,
    killSignal: 'SIGKILL',
  });
  let screen = '';
  let answered = 0;
  running.stdout.on('data', (data: Buffer) => {
    screen += data.toString('utf8');
    if (screen.split(question).length - 1 === answered) return;
    answered += 1;
    running.stdin.write(`${answer}\n`);
  });
  const { exitCode } = await running;
  return { exitCode, screen };
}

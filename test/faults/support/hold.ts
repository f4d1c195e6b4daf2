/**
 * Loaded into an agent's runners and helpers (`NODE_OPTIONS=--import`): the one that gets to a moment first stops itself
 * there, so that a fault meets exactly that moment. Which one stands in the file HOLDFAST_TEST_HOLD, which is gone once it
 * was met: nobody is stopped twice.
 */
import { readFileSync, unlinkSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { Moment } from '../matrix/cases.ts';

const [, program = ''] = process.argv;
const { HOLDFAST_TEST_HOLD: file = '' } = process.env;

if (program.endsWith('/jobs/runner.ts') && !process.argv.includes('--recover')) await holdAtStage();
if (program.endsWith('/repository/helper.ts')) holdAtCall();

async function holdAtStage(): Promise<void> {
  const any = await open('/dev/null');
  const handle = Object.getPrototypeOf(any) as {
    write: (...args: unknown[]) => Promise<unknown>;
    datasync: () => Promise<void>;
  };
  await any.close();
  const write = Reflect.get(handle, 'write');
  const datasync = Reflect.get(handle, 'datasync');
  let line = '';
  handle.write = async function remembered(this: unknown, ...args: unknown[]) {
    if (typeof args[0] === 'string') [line] = args;
    return write.apply(this, args);
  };
  // Only the journal is made durable by datasync.
  handle.datasync = async function durable(this: unknown) {
    await datasync.call(this);
    const moment = wanted();
    if (moment?.kind === 'runner' && line.includes('"stageStarted"') && line.includes(`"${moment.stage}"`))
      hold();
  };
}

function holdAtCall(): void {
  process.prependListener('message' as never, (request: { operation?: string }) => {
    const moment = wanted();
    if (moment?.kind === 'helper' && moment.call === request.operation) hold();
  });
}

function wanted(): Moment | undefined {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Moment;
  } catch {
    return undefined;
  }
}

function hold(): void {
  unlinkSync(file);
  writeFileSync(`${file}.held`, String(process.pid));
  process.kill(process.pid, 'SIGSTOP');
}

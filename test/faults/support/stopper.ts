/**
 * Loaded into an agent's runners (`NODE_OPTIONS=--import`): one stops itself, as by SIGSTOP, before it starts the first
 * program with the argument HOLDFAST_TEST_STOP_AT. So a test can meet a moment that is over in milliseconds.
 */
import childProcess from 'node:child_process';
import { syncBuiltinESMExports } from 'node:module';

const [, program = ''] = process.argv;
const { HOLDFAST_TEST_STOP_AT: word = '' } = process.env;

if (program.endsWith('/jobs/runner.ts') && !process.argv.includes('--recover')) {
  const spawn = Reflect.get(childProcess, 'spawn') as (...args: unknown[]) => unknown;
  let isMet = false;
  const stopping = (...args: unknown[]): unknown => {
    if (!isMet && Array.isArray(args[1]) && args[1].includes(word)) {
      isMet = true;
      process.kill(process.pid, 'SIGSTOP');
    }
    return spawn(...args);
  };
  Reflect.set(childProcess, 'spawn', stopping);
  syncBuiltinESMExports();
}

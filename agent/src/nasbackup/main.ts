/**
 * Takes the place of CloudStack's nasbackup.sh (docs/cloudstack.md): its arguments, its standard output, its exit codes. It
 * moves no data, it passes the work to the agent of this host and waits. What people are told goes to standard output too
 * when it fails, since that is all that CloudStack shows.
 */
import { run } from './run.ts';

const cancelled = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    cancelled.abort();
  });
}
process.exitCode = await run(process.argv.slice(2), {
  agentAddress: process.env['HOLDFAST_AGENT'] ?? 'unix:///run/holdfast/agent.sock',
  compression: process.env['HOLDFAST_NASBACKUP_COMPRESSION'] ?? 'zstd',
  signal: cancelled.signal,
  print: (text) => {
    process.stdout.write(`${text}\n`);
  },
  warn: (text) => {
    process.stderr.write(`${text}\n`);
  },
});

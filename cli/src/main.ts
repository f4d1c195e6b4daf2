#!/usr/bin/env node
import process from 'node:process';
import { ExitCode } from './exit.ts';
import { processTerminal } from './process-terminal.ts';
import { run } from './run.ts';

// `holdfast list | head` closes the pipe; an operation that is followed goes on without us.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  process.exit(ExitCode.INTERRUPTED);
});

process.exitCode = await run(process.argv.slice(2), {
  terminal: processTerminal(process),
  // Loaded on demand: hardly a command needs them.
  loadParts: async () => {
    const [{ createLogger }, { startAgent }, { startController }, { createMasterKey, readMasterKey }, copy] =
      await Promise.all([
        import('@holdfast/common/logger.ts'),
        import('@holdfast/agent/agent.ts'),
        import('@holdfast/controller/controller.ts'),
        import('@holdfast/controller/master-key.ts'),
        import('@holdfast/controller/store/copy.ts'),
      ]);
    return {
      ...{ createLogger, startAgent, startController, createMasterKey, copySqlite: copy.copySqlite },
      readMasterKey: (file) => readMasterKey({ file, text: undefined, credentialsDirectory: undefined }),
    };
  },
});

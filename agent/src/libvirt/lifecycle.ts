import { execa } from 'execa';
import { DIES_WITH_PARENT } from '../process/run.ts';
import type { Virsh } from './virsh.ts';

/** Watches whether a stopped domain is started. */
export interface StartWatch {
  /** Whether it was started since the watch began. */
  wasStarted(): boolean;
  stop(): Promise<void>;
}

/** Follows the domain's lifecycle events, so that a start is seen even when it has stopped again by the end. */
export function watchForStart(virsh: Virsh, uuid: string): StartWatch {
  let started = false;
  const child = execa(
    'setpriv',
    [
      ...DIES_WITH_PARENT,
      'virsh',
      '--connect',
      virsh.uri,
      'event',
      '--domain',
      uuid,
      '--event',
      'lifecycle',
      '--loop',
    ],
    {
      reject: false,
      stdin: 'ignore',
      buffer: false,
      env: { LC_ALL: 'C.UTF-8' },
      forceKillAfterDelay: 2_000,
    },
  );
  child.stdout.on('data', (chunk: Buffer) => {
    if (/Started|Resumed/.test(chunk.toString())) started = true;
  });
  child.stderr.resume();
  return {
    wasStarted: () => started,
    stop: async () => {
      child.kill();
      await child;
    },
  };
}

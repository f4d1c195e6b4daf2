import { createInterface } from 'node:readline';
import { execa } from 'execa';
import { DIES_WITH_PARENT } from '../process/run.ts';
import type { DomainId } from './domains.ts';
import type { Virsh } from './virsh.ts';

/** Watches whether a stopped domain is started. */
export interface StartWatch {
  /** Whether it was started since the watch began. */
  wasStarted(): boolean;
  stop(): Promise<void>;
}

/**
 * Follows the domain's lifecycle events, so that a start is seen even when it has stopped again by the end. Of a domain that
 * libvirt does not know yet, by the name that it would get.
 */
export function watchForStart(virsh: Virsh, { uuid, name }: DomainId): StartWatch {
  let started = false;
  const which = uuid === '' ? [] : ['--domain', uuid];
  const child = execa(
    'setpriv',
    [
      ...DIES_WITH_PARENT,
      'virsh',
      '--connect',
      virsh.uri,
      'event',
      ...which,
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
  createInterface({ input: child.stdout }).on('line', (line) => {
    // event 'lifecycle' for domain 'NAME': Started Booted (older ones without quotes)
    const of = /for domain '?(?<name>.*?)'?: (?:Started|Resumed)\b/.exec(line)?.groups?.['name'];
    if (of !== undefined && (uuid !== '' || of === name)) started = true;
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

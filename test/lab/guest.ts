import { readFile } from 'node:fs/promises';
import { guestAgent, type GuestAgent } from './agent.ts';
import { until } from './deadline.ts';
import type { GuestDisk } from './spec.ts';
import type { Virsh } from './virsh.ts';

/** A domain of the lab. It is known by its UUID; the name may be anything. */
export interface Guest extends GuestAgent {
  readonly name: string;
  readonly uuid: string;
  /** As built by the lab; empty for a domain that was defined from XML. */
  readonly disks: readonly GuestDisk[];
  /** What the guest printed since its last start. */
  console(): Promise<string>;
  /** The active definition, or `--inactive`. */
  xml(flags?: readonly string[]): Promise<string>;
  /** libvirt's word: running, paused, `shut off`, crashed… */
  state(): Promise<string>;
  start(): Promise<void>;
  /** Waits until init is through and, where there is one, the guest agent answers. Default deadline 60 s. */
  waitReady(milliseconds?: number): Promise<void>;
  /** Asks the guest to power off, and waits until it has. Default mode agent, deadline 60 s. */
  shutdown(mode?: 'agent' | 'acpi', milliseconds?: number): Promise<void>;
  /** Pulls the plug. */
  destroy(): Promise<void>;
  suspend(): Promise<void>;
  resume(): Promise<void>;
  freeze(): Promise<void>;
  thaw(): Promise<void>;
  /** Forgets the definition with its checkpoints' metadata; disks stay. */
  undefine(): Promise<void>;
}

export interface GuestParts {
  readonly name: string;
  readonly uuid: string;
  readonly disks: readonly GuestDisk[];
  readonly consoleLog: string | undefined;
  readonly hasAgent: boolean;
}

export function guestOf(virsh: Virsh, parts: GuestParts): Guest {
  const { name, uuid, disks, consoleLog, hasAgent } = parts;
  const agent = guestAgent(virsh, uuid);
  const order = async (...args: string[]): Promise<void> => {
    await virsh(args);
  };
  const state = async () => (await virsh(['domstate', uuid])).trim();
  const consoleText = async () =>
    consoleLog === undefined ? '' : readFile(consoleLog, 'utf8').catch(() => '');

  return {
    ...agent,
    name,
    uuid,
    disks,
    console: consoleText,
    state,
    xml: (flags = []) => virsh(['dumpxml', uuid, ...flags]),
    start: () => order('start', uuid),
    waitReady: async (milliseconds = 60_000) => {
      try {
        await until(`Guest ${name} is ready`, milliseconds, async () => {
          if (consoleLog !== undefined && !(await consoleText()).includes('HOLDFAST READY')) return undefined;
          if (!hasAgent) return true;
          return agent.command('guest-ping').then(
            () => true,
            () => undefined,
          );
        });
      } catch (error) {
        const tail = (await consoleText()).slice(-2000);
        throw new Error(`${String(error)} State: ${await state()}. Its console ends:\n${tail}`, {
          cause: error,
        });
      }
    },
    shutdown: async (mode = 'agent', milliseconds = 60_000) => {
      await order('shutdown', uuid, '--mode', mode);
      await until(`Guest ${name} powers off`, milliseconds, async () =>
        (await state()) === 'shut off' ? true : undefined,
      );
    },
    destroy: () => order('destroy', uuid),
    suspend: () => order('suspend', uuid),
    resume: () => order('resume', uuid),
    freeze: () => order('domfsfreeze', uuid),
    thaw: () => order('domfsthaw', uuid),
    undefine: () => order('undefine', uuid, '--checkpoints-metadata', '--snapshots-metadata'),
  };
}

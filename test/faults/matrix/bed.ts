import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { AddRepositoryRequest, RepositoryType } from '@holdfast/proto/holdfast/v1/repository.ts';
import { restingDisk } from '../../e2e/support/guests.ts';
import { startHoldfast, type Holdfast } from '../../harness/holdfast.ts';
import { mountFaulty, type Faulty } from '../../lab/faulty.ts';
import type { Guest } from '../../lab/guest.ts';
import { startLab, type Lab } from '../../lab/lab.ts';
import { MiB } from '../../lab/spec.ts';
import { startPulse } from '../support/pulse.ts';
import type { Moment } from './cases.ts';

/** What all cases share, since making it takes as long as two of them. */
export interface Bed extends AsyncDisposable {
  readonly lab: Lab;
  readonly holdfast: Holdfast;
  /** It writes all the time. */
  readonly running: Guest;
  readonly stopped: Guest;
  /** The repository of this name. */
  readonly nas: Faulty;
  readonly hold: Hold;
  /** The digests of backups that were restored and found good, by id. */
  readonly good: Map<string, string>;
}

/** Stops a process of a job at a moment. */
export interface Hold {
  /** From now on; before, nobody is stopped. */
  at(moment: Moment): Promise<void>;
  /** The process that is stopped at the moment; undefined while there is none. */
  held(): Promise<number | undefined>;
  /** Lets it go on, and stops nobody any more. */
  release(): Promise<void>;
}

export const ZONE = 'z1';
export const REPOSITORY = 'faulty';

/** MiB of incompressible data, beside the running guest's files. */
const RESTING_MIB = 16;
/** Of the running guest, mostly holes: libvirt pushes the first 64 MiB of a disk before it takes a limit. */
const SPARSE_MIB = 128;

export async function startBed(): Promise<Bed> {
  await using starting = new AsyncDisposableStack();
  const directory = await mkdtemp(path.join(tmpdir(), 'holdfast-hold-'));
  starting.defer(() => rm(directory, { recursive: true }));
  const holdFile = path.join(directory, 'hold');
  // Shared mounts, without which nothing can be pushed.
  const lab = starting.use(await startLab({ mounts: 'shared' }));
  const running = await lab.guest({
    disks: [
      { target: 'vda', sizeBytes: 48 * MiB, content: { kind: 'files', fileBytes: 8 * MiB } },
      {
        target: 'vdb',
        format: 'raw',
        sizeBytes: SPARSE_MIB * MiB,
        content: { kind: 'random', everyMiB: SPARSE_MIB / RESTING_MIB },
      },
    ],
  });
  const stopped = await lab.guest({ disks: [{ ...restingDisk(RESTING_MIB), target: 'vda' }], start: false });
  const holdfast = starting.use(
    await startHoldfast(lab, {
      agents: [
        {
          zone: ZONE,
          env: {
            NODE_OPTIONS: `--import=${path.join(import.meta.dirname, '../support/hold.ts')}`,
            HOLDFAST_TEST_HOLD: holdFile,
          },
        },
      ],
    }),
  );
  const { client } = holdfast;
  const nas = starting.use(
    await mountFaulty(path.join(holdfast.directory, 'faulty'), path.join(holdfast.directory, 'faulty-files')),
  );
  await client.call(
    client.repositories.addRepository.bind(client.repositories),
    AddRepositoryRequest.fromPartial({
      zone: ZONE,
      name: REPOSITORY,
      type: RepositoryType.REPOSITORY_TYPE_LOCAL,
      path: nas.point,
    }),
  );
  await client.setSettings(ZONE, {
    'nas.backup.compression.enabled': 'true',
    'nas.backup.encryption.enabled': 'true',
    'nas.backup.encryption.passphrase': 'correct horse battery staple',
    'nas.backup.integrity.check': 'true',
    'nas.backup.quiesce': 'required',
  });
  await running.waitReady();
  await startPulse(running);
  const all = starting.move();
  return {
    ...{ lab, holdfast, running, stopped, nas },
    hold: holdWith(holdFile),
    good: new Map(),
    [Symbol.asyncDispose]: () => all.disposeAsync(),
  };
}

/** With HOLDFAST_TEST_HOLD, see support/hold.ts. */
export function holdWith(file: string): Hold {
  const named = async (): Promise<number | undefined> => {
    const text = await readFile(`${file}.held`, 'utf8').catch(() => '');
    return text === '' ? undefined : Number(text);
  };
  return {
    at: (moment) => writeFile(file, JSON.stringify(moment)),
    held: async () => {
      const pid = await named();
      return pid !== undefined && (await isStopped(pid)) ? pid : undefined;
    },
    release: async () => {
      const pid = await named();
      for (const each of [file, `${file}.held`]) await rm(each, { force: true });
      if (pid === undefined) return;
      try {
        process.kill(pid, 'SIGCONT');
      } catch {
        // It was killed.
      }
    },
  };
}

/** It names itself a moment before it stops: what let it go in between would leave it stopped for ever. */
async function isStopped(pid: number): Promise<boolean> {
  return /^State:\tT/m.test(await readFile(`/proc/${pid}/status`, 'utf8').catch(() => ''));
}

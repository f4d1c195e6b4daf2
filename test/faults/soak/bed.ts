import { restingDisk } from '../../e2e/support/guests.ts';
import { startPulse } from '../support/pulse.ts';
import { startHoldfast, type Holdfast } from '../../harness/holdfast.ts';
import type { Guest } from '../../lab/guest.ts';
import { startLab, type Lab } from '../../lab/lab.ts';
import { MiB } from '../../lab/spec.ts';

/** What a soak works on. */
export interface Bed extends AsyncDisposable {
  readonly lab: Lab;
  readonly holdfast: Holdfast;
  /** It writes and flushes all the time. */
  readonly running: Guest;
  readonly stopped: Guest;
  /** For a guest that was killed. */
  restartGuest(): Promise<void>;
}

export const ZONE = 'z1';
const RESTING_MIB = 16;

export async function startBed(): Promise<Bed> {
  await using starting = new AsyncDisposableStack();
  // Shared mounts, without which nothing can be pushed.
  const lab = starting.use(await startLab({ mounts: 'shared' }));
  const running = await lab.guest({
    disks: [
      { target: 'vda', sizeBytes: 48 * MiB, content: { kind: 'files', fileBytes: 8 * MiB } },
      restingDisk(RESTING_MIB),
    ],
  });
  const stopped = await lab.guest({ disks: [{ ...restingDisk(RESTING_MIB), target: 'vda' }], start: false });
  const holdfast = starting.use(await startHoldfast(lab, { agents: [{ zone: ZONE }] }));
  await holdfast.client.setSettings(ZONE, {
    'nas.backup.encryption.passphrase': 'correct horse battery staple',
  });
  await running.waitReady();
  await startPulse(running);
  const started = starting.move();
  return {
    ...{ lab, holdfast, running, stopped },
    restartGuest: async () => {
      if ((await running.state()) !== 'shut off') await running.destroy();
      await running.start();
      await running.waitReady();
      await startPulse(running);
    },
    [Symbol.asyncDispose]: () => started.disposeAsync(),
  };
}

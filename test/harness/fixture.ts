import type { Guest } from '../lab/guest.ts';
import { startLab, type Lab, type LabOptions } from '../lab/lab.ts';
import type { GuestSpec } from '../lab/spec.ts';
import { startHoldfast, type Holdfast, type HoldfastOptions } from './holdfast.ts';

/** What the tests of one `describe` share. Filled before the first of them runs. */
export interface Fixture {
  readonly lab: Lab;
  readonly guest: Guest;
  readonly holdfast: Holdfast;
}

export interface FixtureOptions {
  readonly guest: GuestSpec;
  readonly lab?: LabOptions;
  /** May depend on the lab. */
  readonly holdfast?: HoldfastOptions | ((lab: Lab) => Promise<HoldfastOptions>);
}

/** The end of the logs that is printed when a test fails. */
const LOG_CHARACTERS = 20_000;

/** Inside `describe`: a lab with one guest, ready when it is to be started, and Holdfast for it. Removed at the end. */
export function useHoldfast(options: FixtureOptions): Fixture {
  const stack = new AsyncDisposableStack();
  const parts: { lab?: Lab; guest?: Guest; holdfast?: Holdfast } = {};
  before(async () => {
    const lab = (parts.lab = stack.use(await startLab(options.lab)));
    const guest = (parts.guest = await lab.guest(options.guest));
    const { holdfast } = options;
    parts.holdfast = stack.use(
      await startHoldfast(lab, typeof holdfast === 'function' ? await holdfast(lab) : holdfast),
    );
    if (options.guest.start ?? true) await guest.waitReady();
  });
  afterEach(async function () {
    if (this.currentTest?.state !== 'failed') return;
    console.error((await parts.holdfast?.logs())?.slice(-LOG_CHARACTERS));
  });
  after(() => stack.disposeAsync());
  return {
    get lab() {
      return ready(parts.lab);
    },
    get guest() {
      return ready(parts.guest);
    },
    get holdfast() {
      return ready(parts.holdfast);
    },
  };
}

function ready<Part>(part: Part | undefined): Part {
  if (part === undefined) throw new Error('The fixture is there inside of tests only.');
  return part;
}

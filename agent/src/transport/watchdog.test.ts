import assert from 'node:assert/strict';
import { watchTargets, type Watchdog } from './watchdog.ts';

/** A connection that owes what is listed, look after look, and the last of it for ever. */
class Connection {
  readonly #owed: number[];
  aborted = false;
  constructor(...owed: number[]) {
    this.#owed = owed;
  }
  waiting(): Promise<number> {
    return Promise.resolve((this.#owed.length > 1 ? this.#owed.shift() : this.#owed[0]) ?? 0);
  }
  abort(): Promise<void> {
    this.aborted = true;
    return Promise.resolve();
  }
}

/** A watchdog that finds five seconds gone by when it looks for the first time, and 200 ms more each time. */
function watching(connections: Record<string, Connection>): {
  readonly dog: Watchdog;
  readonly killed: Promise<void>;
} {
  const times = Object.keys(connections).map(() => 0);
  let nowMs = 5_000;
  let resolve = (): void => undefined;
  const killed = new Promise<void>((done) => {
    resolve = done;
  });
  const dog = watchTargets({
    connections: new Map(Object.entries(connections)),
    killWriter: () => {
      resolve();
      return Promise.resolve();
    },
    nowMs: () => times.pop() ?? (nowMs += 200),
  });
  return { dog, killed };
}

const settled = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 400));

describe('watchdog of a push', () => {
  it('takes a target that owes an answer for too long to hang, and kills the writer', async () => {
    const vda = new Connection(3);
    const vdb = new Connection(0);
    const { dog, killed } = watching({ vda, vdb });
    await killed;
    assert.equal(dog.stalled(), 'vda');
  });

  it('takes one that answers to be alive, though it is never seen idle', async () => {
    const owed = [16, 15, 16, 15, 16, 15, 16];
    let looks = 0;
    const { promise: killed, resolve } = Promise.withResolvers<number>();
    const connection = {
      waiting: () => Promise.resolve(owed[looks++] ?? 16),
      abort: () => Promise.resolve(),
    };
    watchTargets({
      connections: new Map([['vda', connection]]),
      killWriter: () => {
        resolve(looks);
        return Promise.resolve();
      },
      // Two seconds from look to look.
      nowMs: () => 2_000 * looks,
    });
    // The last answer was that before the seventh look, and the ninth is to make sure.
    assert.equal(await killed, 9);
  });

  it('makes sure that not it alone had no time', async () => {
    const { dog } = watching({ vda: new Connection(16, 16, 15, 0) });
    await settled();
    assert.equal(dog.stalled(), undefined);
    dog.stop();
  });

  it('lets an exporter be that answers without the writer, though it is never seen idle', async () => {
    const vda = new Connection(16, 16, 16, 16, 15, 16);
    const { killed } = watching({ vda });
    await killed;
    await settled();
    assert.equal(vda.aborted, false);
  });

  it('aborts the connections of an exporter that answers nothing, since it hangs itself', async () => {
    const vda = new Connection(3, 4, 5);
    const { killed } = watching({ vda });
    await killed;
    await settled();
    assert.equal(vda.aborted, true);
  });
});

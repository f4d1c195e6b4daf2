import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from './errors.ts';
import { createLogger, type Logger } from './logger.ts';
import { Secret } from './secret.ts';

const KEY = `AGE-SECRET-KEY-1${'Q'.repeat(58)}`;

describe('the logger', () => {
  let directory: string;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'holdfast-logger-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  /** What a logger wrote, once as many lines are there as were logged. */
  async function written(
    format: 'json' | 'pretty',
    lines: number,
    use: (logger: Logger) => void,
  ): Promise<string[]> {
    const file = join(directory, `${format}.log`);
    use(createLogger({ level: 'info', format, file }, { service: 'test' }));
    for (;;) {
      const text = await readFile(file, 'utf8').catch(() => '');
      const found = text.split('\n').slice(0, -1);
      if (found.length >= lines) return found;
      await sleep(10);
    }
  }

  for (const format of ['json', 'pretty'] as const) {
    it(`redacts keys and secrets wherever they stand (${format})`, async () => {
      const [line = ''] = await written(format, 1, (logger) => {
        logger.info(`message ${KEY}`, {
          message: `meta ${KEY}`,
          secret: 'plain-secret',
          zonePassphrase: 'plain-passphrase',
          wrapped: new Secret('wrapped-secret'),
          list: [{ deep: KEY.toLowerCase() }],
          bytes: Buffer.from(KEY),
          error: new Error(`outer ${KEY}`, {
            cause: new HoldfastError('INTERNAL', `inner ${KEY}`, { cause: new Error(`innermost ${KEY}`) }),
          }),
        });
      });
      assert.equal(/AGE-SECRET-KEY-1Q|plain-|wrapped-secret/i.test(line), false, line);
      for (const kept of ['message', 'meta', 'outer', 'inner', 'innermost'])
        assert.ok(line.includes(kept), kept);
    });
  }

  it('shows errors with their causes, and keeps message and meta.message apart', async () => {
    const [line = ''] = await written('json', 1, (logger) => {
      logger.error('it broke', {
        error: new Error('why', { cause: new TypeError('because') }),
        message: 'other',
      });
    });
    const entry = JSON.parse(line) as Record<string, { message: string; cause: { name: string } }>;
    assert.equal(entry['error']?.message, 'why');
    assert.equal(entry['error'].cause.name, 'TypeError');
    assert.match(line, /"message":"it broke"/);
  });

  it('writes one line for each, at its level and above, with what child loggers add', async () => {
    const lines = await written('json', 2, (logger) => {
      logger.debug('not this');
      logger.child({ jobId: 'j' }).warn('first\nline');
      logger.info('second');
    });
    assert.equal(lines.length, 2);
    assert.deepEqual(
      lines.map((line) => (JSON.parse(line) as { jobId?: string; service: string; message: string }).jobId),
      ['j', undefined],
    );
  });
});

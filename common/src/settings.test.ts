import assert from 'node:assert/strict';
import fc from 'fast-check';
import { HoldfastError } from './errors.ts';
import { parseSetting, settingDefinitions, settingKeys } from './settings.ts';

const LIMIT = 'nas.backup.bandwidth.limit.mbps';
const CHECK = 'nas.backup.integrity.check';
const PASSPHRASE = 'nas.backup.encryption.passphrase';

describe('settings', () => {
  const good: readonly (readonly [string, string, string])[] = [
    [CHECK, 'true', 'true'],
    [CHECK, 'FALSE', 'false'],
    [LIMIT, '0', '0'],
    [LIMIT, '0040', '40'],
    [LIMIT, '1048576', '1048576'],
    ['nas.backup.compression.algorithm', 'zlib', 'zlib'],
    ['nas.backup.quiesce', 'best-effort', 'best-effort'],
    [PASSPHRASE, '', ''],
    [PASSPHRASE, ' sp ace, "quotes" ö ', ' sp ace, "quotes" ö '],
    [PASSPHRASE, 'x'.repeat(1_024), 'x'.repeat(1_024)],
  ];
  for (const [key, value, stored] of good) {
    it(`takes ${JSON.stringify(value.slice(0, 30))} for ${key}`, () => {
      assert.deepEqual(parseSetting(key, value), { key, value: stored });
    });
  }

  const bad: readonly (readonly [string, string])[] = [
    ...['', 'yes', '1', ' true', 'true\n'].map((value) => [CHECK, value] as const),
    ...['-1', '1048577', '1e3', '4.5', '', ' 4', '0x10', '999999999999999999', 'NaN', '٤'].map(
      (value) => [LIMIT, value] as const,
    ),
    ...['lz4', 'ZSTD', ''].map((value) => ['nas.backup.compression.algorithm', value] as const),
    ['nas.backup.quiesce', 'maybe'],
    ...['a\nb', 'a\0b', 'a\r', '\ud800', 'ö'.repeat(513)].map((value) => [PASSPHRASE, value] as const),
  ];
  for (const [key, value] of bad) {
    it(`refuses ${JSON.stringify(value.slice(0, 30))} for ${key}`, () => {
      assert.throws(() => parseSetting(key, value), {
        reason: 'SETTING_INVALID',
        metadata: { key },
      });
    });
  }

  it('refuses an unknown key, and one that every object has', () => {
    for (const key of ['nas.backup.bandwidth', '', 'constructor', '__proto__']) {
      assert.throws(() => parseSetting(key, 'x'), { reason: 'SETTING_UNKNOWN' });
    }
  });

  it('has the five of the contract, all off', () => {
    const five = [
      'nas.backup.compression.enabled',
      'nas.backup.encryption.enabled',
      PASSPHRASE,
      LIMIT,
      CHECK,
    ] as const;
    assert.deepEqual(
      five.map((key) => settingDefinitions[key].defaultValue),
      ['false', 'false', '', '0', 'false'],
    );
  });

  it('never says a passphrase that it refuses', () => {
    const secret = 'tell-nobody';
    assert.throws(
      () => parseSetting(PASSPHRASE, `${secret}\n`),
      (error: unknown) =>
        error instanceof HoldfastError && !JSON.stringify([error.message, error.metadata]).includes(secret),
    );
  });

  it('stores what it would take again, whatever it is given', () => {
    fc.assert(
      fc.property(fc.constantFrom(...settingKeys), fc.string({ unit: 'binary' }), (key, text) => {
        let stored: string;
        try {
          stored = parseSetting(key, text).value;
        } catch (error) {
          return error instanceof HoldfastError;
        }
        return parseSetting(key, stored).value === stored;
      }),
    );
  });
});

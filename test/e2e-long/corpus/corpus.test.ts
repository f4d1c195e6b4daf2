/**
 * Damage of every kind to backups of every kind, and which level of verification finds it. The table of what came out is
 * corpus.json; `node test/e2e-long/corpus/render.ts` puts it into docs/integrity.md.
 *
 *     HOLDFAST_SEED=7    other places for the bits that are flipped
 */
import assert from 'node:assert/strict';
import {
  copyFile,
  cp,
  open,
  readdir,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import { BackupState } from '@holdfast/proto/holdfast/v1/backup.ts';
import { fromStatus } from '@holdfast/common/errors.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import { useHoldfast } from '../../harness/fixture.ts';
import { succeeded } from '../../harness/follow.ts';
import { MiB } from '../../lab/spec.ts';
import { randomOf } from '../../faults/soak/random.ts';
import { regionsOf } from './regions.ts';
import { LEVELS, mustFind, RESULTS_FILE, type Level, type Row } from './results.ts';

const { HOLDFAST_SEED = '1' } = process.env;

const KINDS = [
  { kind: 'plain', compression: false, encryption: false },
  { kind: 'compressed', compression: true, encryption: false },
  { kind: 'encrypted', compression: false, encryption: true },
  { kind: 'compressed and encrypted', compression: true, encryption: true },
] as const;

/** One kind of damage: done, and undone. */
interface Damage {
  readonly region: string;
  readonly harm: () => Promise<void>;
}

describe(`damaged backups (seed ${HOLDFAST_SEED})`, function () {
  this.timeout(600_000);
  const fixture = useHoldfast({
    guest: {
      disks: [
        { target: 'vda', format: 'raw', sizeBytes: 8 * MiB, content: { kind: 'pattern' } },
        { target: 'vdb', format: 'raw', sizeBytes: 8 * MiB, content: { kind: 'pattern', marker: 'other' } },
      ],
      start: false,
    },
  });
  const rows: Row[] = [];
  /** Where compressed data is in an image of this content. */
  let compressedAt = 0;
  after(() => writeFile(RESULTS_FILE, `${JSON.stringify(rows, undefined, 2)}\n`));
  const random = randomOf(Number(HOLDFAST_SEED));
  const choose = (below: number): number => random.below(below);

  for (const { kind, compression, encryption } of KINDS) {
    it(`are found at the levels that promise it, and sound ones are sound: ${kind}`, async () => {
      const { guest, holdfast } = fixture;
      const { client } = holdfast;
      const settings = {
        'nas.backup.compression.enabled': String(compression),
        'nas.backup.encryption.enabled': String(encryption),
        'nas.backup.encryption.passphrase': 'of the corpus',
        'nas.backup.integrity.digests': 'content',
      };
      const take = async (): Promise<{ readonly id: string; readonly folder: string }> => {
        const { backupId } = succeeded(await client.takeBackup({ zone: 'z1', domain: guest.name, settings }));
        const { path: relative } = await client.getBackup(backupId);
        return { id: backupId, folder: path.join(holdfast.repository('z1'), relative) };
      };
      const older = await take();
      await change(guest.disks[0]?.path ?? '');
      const { id, folder } = await take();
      const verify = async (level: Level): Promise<boolean> => {
        const { operation } = await client.verifyBackup({ backupId: id, level });
        if (operation.state === OperationState.OPERATION_STATE_SUCCEEDED) return false;
        assert.ok(operation.error);
        const { reason, message } = fromStatus(operation.error);
        assert.equal(reason, 'BACKUP_DAMAGED', `${level}: ${message}`);
        return true;
      };
      const state = async () => (await client.getBackup(id)).state;
      const requireSound = async (what: string): Promise<void> => {
        for (const level of LEVELS) assert.ok(!(await verify(level)), `${what}: a false alarm at ${level}`);
        assert.equal(await state(), BackupState.BACKUP_STATE_AVAILABLE, what);
      };

      await requireSound('before');
      const copies = [`${folder}.copy`, `${older.folder}.copy`];
      await cp(folder, copies[0] ?? '', { recursive: true });
      await cp(older.folder, copies[1] ?? '', { recursive: true });
      for (const { region, harm } of await damages(folder, older.folder)) {
        await harm();
        for (const level of LEVELS) {
          const found = await verify(level).catch((error: unknown) => {
            throw new Error(`${region}, ${String(error)}`, { cause: error });
          });
          rows.push({ kind, region, level, found });
          if (mustFind(region, level)) assert.ok(found, `${level} did not find damage: ${region}`);
          // What was found is not forgotten at a level that sees nothing of it.
          if (found) assert.equal(await state(), BackupState.BACKUP_STATE_DAMAGED, region);
        }
        await rm(folder, { recursive: true });
        await rm(older.folder, { recursive: true });
        await cp(copies[0] ?? '', folder, { recursive: true });
        await cp(copies[1] ?? '', older.folder, { recursive: true });
        await requireSound(`after ${region}`);
      }
      for (const copy of copies) await rm(copy, { recursive: true });
    });
  }

  /** All that is done to a backup, its image of vda above all. */
  async function damages(folder: string, older: string): Promise<readonly Damage[]> {
    const names = await readdir(folder);
    const file = (start: string): string =>
      path.join(folder, names.find((name) => name.startsWith(start)) ?? start);
    const [image, other] = [file('vda.qcow2'), file('vdb.qcow2')];
    const regions = await regionsOf(image, choose, compressedAt);
    compressedAt = regions.get('compressed data') ?? compressedAt;
    const flipped = (region: string, name: string, at: number): Damage => ({
      region,
      // A count that is too high wastes space and harms nothing; one that was one and is none does.
      harm: () => flip(name, at, region === 'refcounts' ? 0 : choose(8)),
    });
    const somewhere = async (region: string, name: string): Promise<Damage> =>
      flipped(region, name, choose((await stat(name)).size));
    return [
      ...[...regions].map(([region, at]) => flipped(region, image, at)),
      await somewhere('manifest', file('manifest.json')),
      await somewhere('domain XML', file('domain.xml')),
      await somewhere('digests of what is stored', file('vda.stored')),
      await somewhere('digests of the content', file('vda.content')),
      { region: 'image truncated', harm: async () => truncate(image, (await stat(image)).size - 1) },
      { region: 'image extended', harm: async () => truncate(image, (await stat(image)).size + 1) },
      { region: 'two images swapped', harm: () => swap(image, other) },
      { region: 'two backups swapped', harm: () => swap(folder, older) },
      {
        region: 'image of an older backup',
        harm: () => copyFile(path.join(older, path.basename(image)), image),
      },
      {
        region: 'an older backup in its place',
        harm: async () => {
          await rm(folder, { recursive: true });
          await cp(older, folder, { recursive: true });
        },
      },
      {
        region: 'an older version of itself, with its id',
        harm: async () => {
          await rm(folder, { recursive: true });
          await cp(older, folder, { recursive: true });
          const manifest = path.join(folder, 'manifest.json');
          const text = await readFile(manifest, 'utf8');
          await writeFile(manifest, text.replaceAll(idOf(older), idOf(folder)));
        },
      },
    ];
  }

  /** Of the backup in a folder, which ends with it. */
  function idOf(folder: string): string {
    return folder.slice(-36);
  }

  async function flip(name: string, at: number, bit: number): Promise<void> {
    await using handle = await open(name, 'r+');
    const byte = Buffer.alloc(1);
    await handle.read(byte, 0, 1, at);
    await handle.write(Buffer.from([(byte[0] ?? 0) ^ (1 << bit)]), 0, 1, at);
  }

  /** What the guest might have written between two backups. */
  async function change(disk: string): Promise<void> {
    await using handle = await open(disk, 'r+');
    await handle.write(Buffer.alloc(64 * 1_024, `written ${choose(1_000_000)} `), 0, undefined, 3 * MiB);
  }

  async function swap(one: string, other: string): Promise<void> {
    await rename(one, `${one}.swap`);
    await rename(other, one);
    await rename(`${one}.swap`, other);
  }
});

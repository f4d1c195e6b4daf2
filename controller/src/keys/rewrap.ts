import { HoldfastError } from '@holdfast/common/errors.ts';
import type { BackupKeyFile } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import type { Repository } from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Repositories } from '../fleet/repositories.ts';
import type { KeyTable } from '../store/schema.ts';
import type { Store } from '../store/store.ts';
import type { Settings } from '../zones/settings.ts';
import { decryptWith, encryptTo } from './age.ts';
import { escrowOf, type Escrow } from './escrow.ts';
import { activeZoneKey, type Keys } from './keys.ts';
import { openColumn } from './sealed.ts';
import { backupOfBefore, keyWork, misfitBackups, usableKeys } from './work.ts';

/** So many backups' key files are written with one call. */
const BATCH = 200;

/** Brings the key files of one zone's repositories to what they should be. */
export interface Rewrapper {
  /**
   * Does the next part of what is left in a repository.
   *
   * @returns what is waited for, in words; undefined when it did something or nothing is left
   * @throws HoldfastError what the repository or its hosts say, BACKUP_DAMAGED when a backup's key does not open
   */
  step(repository: string): Promise<string | undefined>;
}

interface RewrapParts {
  readonly store: Store;
  readonly settings: Pick<Settings, 'resolveIn'>;
  readonly repositories: Repositories;
  readonly keys: Keys;
  readonly zone: string;
  readonly correlationId: string;
  /** The epoch under which key files are written; refuses when another controller does this work now. */
  readonly requireLed: () => Promise<bigint>;
  readonly warn: (reason: string, message: string) => Promise<void>;
}

/** What a step works with. */
interface Scene {
  readonly repository: Repository;
  readonly escrow: Escrow;
  readonly usable: ReadonlyMap<string, KeyTable>;
  /** The keys with work in this repository. */
  readonly concerned: readonly KeyTable[];
}

export function createRewrapper(parts: RewrapParts): Rewrapper {
  const { store, repositories, keys, zone, correlationId } = parts;
  const { db } = store;
  /** Zone keys that lie in a repository as they are now. */
  const written = new Set<string>();
  /** Files of backups that no key opens. */
  const hopeless = new Set<string>();
  /** The catalogue's backups whose keys do not open, and their repositories. */
  const broken = new Map<string, string>();

  const look = async (name: string): Promise<Scene> => {
    const escrow = escrowOf(await parts.settings.resolveIn(db, zone));
    const usable = new Map((await usableKeys(db, zone)).map((row) => [row.id, row]));
    const work = (await keyWork(db, zone)).filter((each) => each.repository === name);
    const concerned = work.map(({ keyId }) => usable.get(keyId)).filter((row) => row !== undefined);
    return { repository: await repositories.find(name), escrow, usable, concerned };
  };

  const writeFiles = async (
    repository: Repository,
    files: Parameters<Repositories['writeKeyFiles']>[2],
  ): Promise<readonly string[]> => {
    const epoch = await parts.requireLed();
    return repositories.writeKeyFiles(repository, epoch, files, correlationId);
  };

  /** Zone keys whose passphrase was changed, where a repository has them. */
  const replaceZoneKeys = async ({ repository, concerned }: Scene): Promise<void> => {
    const stale = concerned.filter((row) => !written.has(nameOf(repository, row)));
    if (stale.length === 0) return;
    const files = await Promise.all(
      stale.map(async (row) => ({ keyId: row.id, content: await keys.zoneKeyFile(row.id) })),
    );
    await writeFiles(repository, { replacedZoneKeys: files });
    for (const row of stale) written.add(nameOf(repository, row));
  };

  /** The key that a backup of this one is to be wrapped to. */
  const successor = async (row: KeyTable): Promise<KeyTable> => {
    if (row.state === 'active') return row;
    const active = await activeZoneKey(db, zone);
    if (active !== undefined) return active;
    throw new HoldfastError('KEY_NOT_FOUND', `Zone ${zone} has no active key.`);
  };

  /** @returns the file with the backup's key wrapped anew; undefined when the key does not open it */
  const rewrapped = async (
    scene: Scene,
    file: BackupKeyFile,
  ): Promise<{ readonly file: BackupKeyFile; readonly key: KeyTable } | undefined> => {
    const row = scene.usable.get(file.keyId);
    if (row === undefined) return undefined;
    let secret;
    try {
      secret = await decryptWith(openColumn(store, row, 'identity'), file.wrappedKey);
    } catch {
      return undefined;
    }
    const key = await successor(row);
    const wrappedKey = await encryptTo([key.recipient, ...scene.escrow.recipients], secret);
    return { file: { path: file.path, keyId: key.id, wrappedKey }, key };
  };

  const write = async (
    { repository }: Scene,
    made: readonly { readonly file: BackupKeyFile; readonly key: KeyTable }[],
  ): Promise<void> => {
    const ids = new Set(made.map(({ key }) => key.id));
    const zoneKeys = await Promise.all(
      [...ids].map(async (keyId) => ({ keyId, content: await keys.zoneKeyFile(keyId) })),
    );
    const backups = made.map(({ file }) => file);
    const missing = await writeFiles(repository, { zoneKeys, backups });
    const [first] = missing;
    if (first === undefined) return;
    await parts.warn(
      'BACKUP_NOT_FOUND',
      `${missing.length === 1 ? 'A backup is' : `${missing.length} backups are`} in the catalogue and not on repository ` +
        `${repository.name}: ${first}. Delete what is gone.`,
    );
  };

  /** Wraps the next of the catalogue's backups anew. False when there is none. */
  const rewrapBatch = async (scene: Scene): Promise<boolean> => {
    const rows = await misfitBackups(db, scene.escrow.id)
      .select(['backups.id', 'backups.path', 'backups.key_id', 'backups.wrapped_key'])
      .where('backups.zone', '=', zone)
      .where('backups.repository', '=', scene.repository.name)
      .orderBy('backups.id')
      .limit(BATCH + broken.size)
      .execute();
    const batch = rows.filter((row) => !broken.has(row.id));
    if (batch.length === 0) return false;
    const made = await Promise.all(
      batch.map(async (row) => {
        const { path } = row;
        const before = { path, keyId: row.key_id ?? '', wrappedKey: Buffer.from(row.wrapped_key ?? []) };
        const after = await rewrapped(scene, before);
        if (after === undefined) broken.set(row.id, scene.repository.name);
        return after && { ...after, id: row.id, before };
      }),
    );
    const whole = made.filter((each) => each !== undefined);
    if (whole.length === 0) return true;
    await write(scene, whole);
    await store.transact(async (trx) => {
      for (const { id, before, file } of whole) {
        await trx
          .updateTable('backups')
          .set({ key_id: file.keyId, wrapped_key: file.wrappedKey, escrow_id: scene.escrow.id })
          .where('id', '=', id)
          .where('key_id', '=', before.keyId)
          .execute();
      }
    });
    return true;
  };

  /** Wraps anew what lies in the repository under keys that retire, whoever knows of it. False when there is nothing. */
  const rewrapFound = async (scene: Scene, retiring: readonly KeyTable[]): Promise<boolean> => {
    const { repository } = scene;
    const wanted = { keyIds: retiring.map((row) => row.id), zoneKeys: false };
    const found = await repositories.findKeyFiles(repository, wanted, correlationId);
    const made = [];
    for (const file of found.backups.filter((each) => !hopeless.has(hopelessName(repository, each)))) {
      const known = await db
        .selectFrom('backups')
        .select(['key_id', 'wrapped_key'])
        .where('repository', '=', repository.name)
        .where('path', '=', file.path)
        .executeTakeFirst();
      const own = scene.usable.get(known?.key_id ?? '');
      const after =
        own?.state === 'active' && known?.wrapped_key
          ? { key: own, file: { path: file.path, keyId: own.id, wrappedKey: Buffer.from(known.wrapped_key) } }
          : await rewrapped(scene, file);
      if (after !== undefined) made.push(after);
      else {
        hopeless.add(hopelessName(repository, file));
        await parts.warn(
          'BACKUP_DAMAGED',
          `The key file of ${file.path} on repository ${repository.name} is not one that key ${file.keyId} opens; it was ` +
            'left as it is.',
        );
      }
    }
    if (made.length === 0) return found.more;
    // Of several files of one backup, one is enough.
    await write(scene, [...new Map(made.map((each) => [each.file.path, each])).values()]);
    return true;
  };

  const settle = async ({ repository, escrow, concerned }: Scene): Promise<void> => {
    await store.transact(async (trx) => {
      const present = escrowOf(await parts.settings.resolveIn(trx, zone));
      // What was changed meanwhile is begun anew.
      if (present.id !== escrow.id) return;
      for (const row of concerned) {
        const now = await trx
          .selectFrom('keys')
          .select(['generation', 'state'])
          .where('id', '=', row.id)
          .executeTakeFirst();
        if (now?.generation !== row.generation || now.state !== row.state) continue;
        await trx
          .deleteFrom('key_files')
          .where('key_id', '=', row.id)
          .where('repository', '=', repository.name)
          .execute();
      }
    });
  };

  return {
    step: async (name) => {
      const scene = await look(name);
      await replaceZoneKeys(scene);
      if (await rewrapBatch(scene)) return undefined;
      const { repository, concerned, escrow } = scene;
      const [damagedId] = [...broken].find(([, where]) => where === name) ?? [];
      if (damagedId !== undefined) {
        throw new HoldfastError(
          'BACKUP_DAMAGED',
          `The key of backup ${damagedId} does not open with the zone's; delete the backup, or put the controller's state back.`,
        );
      }
      for (const { id } of concerned) {
        const other = await backupOfBefore(db, { keyId: id, repository: name }, escrow.id);
        if (other === undefined) continue;
        // It may write the file of the zone's key as it was.
        for (const row of concerned) written.delete(nameOf(repository, row));
        return `operation ${other} takes a backup that began before the change`;
      }
      const retiring = concerned.filter((row) => row.state === 'retiring');
      if (retiring.length > 0) {
        if (await rewrapFound(scene, retiring)) return undefined;
        const gone = retiring.map((row) => ({ keyId: row.id, content: Buffer.alloc(0) }));
        await writeFiles(repository, { zoneKeys: gone });
      }
      await settle(scene);
      return undefined;
    },
  };
}

function nameOf({ name }: Repository, { id, generation }: KeyTable): string {
  return `${name} ${id} ${generation}`;
}

function hopelessName({ name }: Repository, { path, keyId }: BackupKeyFile): string {
  return `${name} ${path} ${keyId}`;
}

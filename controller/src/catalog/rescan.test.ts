import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { correlated } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import { manifestMac, sha256 } from '@holdfast/common/manifestDigest.ts';
import { Secret } from '@holdfast/common/secret.ts';
import {
  ScannedFolder,
  ScannedFolderState,
  type DeleteBackupRequest,
  type TakeBackupStart,
} from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { OperationState } from '@holdfast/proto/holdfast/v1/operation.ts';
import {
  RescanOutcome,
  type RescanFigures,
  type RescanFinding,
  type RescanRepositoryResponse,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import { happening, runningDomains, type FakeAgent } from '../testing/fake-agent.ts';
import { ask, jobOf, reaches, refused, setSettings, startLab, takeBackup, type Lab } from '../testing/lab.ts';
import type { BackupTable } from '../store/schema.ts';
import { openStore } from '../store/store.ts';
import { MASTER_KEY } from '../testing/lab.ts';

const SUCCEEDED = OperationState.OPERATION_STATE_SUCCEEDED;
const {
  RESCAN_OUTCOME_IMPORTED: IMPORTED,
  RESCAN_OUTCOME_FOREIGN: FOREIGN,
  RESCAN_OUTCOME_DAMAGED: DAMAGED,
  RESCAN_OUTCOME_MOVED: MOVED,
  RESCAN_OUTCOME_DIFFERENT: DIFFERENT,
  RESCAN_OUTCOME_BUSY: BUSY,
  RESCAN_OUTCOME_MISSING: MISSING,
} = RescanOutcome;

for (const kind of ['sqlite', 'postgres'] as const) {
  describe(`rescanning a repository (${kind})`, () => {
    let lab: Lab;
    let agent: FakeAgent;
    beforeEach(async () => {
      lab = await startLab(kind);
      agent = await lab.furnish();
    });
    afterEach(() => lab.close());

    const rescan = async (
      dryRun = false,
    ): Promise<{ readonly findings: RescanFinding[]; readonly figures: RescanFigures | undefined }> => {
      const { repositories } = lab.clients;
      const stream = repositories.rescanRepository({ name: 'r1', dryRun }, correlated('test-1'));
      const responses: RescanRepositoryResponse[] = [];
      try {
        for await (const response of stream as AsyncIterable<RescanRepositoryResponse>)
          responses.push(response);
      } catch (error) {
        throw fromServiceError(error);
      }
      const findings = responses.flatMap(({ message }) =>
        message?.$case === 'finding' ? [message.value] : [],
      );
      const last = responses.at(-1)?.message;
      return { findings, figures: last?.$case === 'figures' ? last.value : undefined };
    };
    /** Takes a backup, and lays down what an agent would find of it. */
    const backedUp = async (
      settings: Record<string, string> = {},
    ): Promise<{ readonly id: string; readonly folder: ScannedFolder }> => {
      const operation = await takeBackup(lab, { settings });
      const job = await jobOf(agent, operation.id);
      const folder = scanned(job.start as TakeBackupStart);
      job.emit({
        $case: 'completed',
        value: {
          result: {
            $case: 'backup',
            value: BackupResult.fromPartial({
              path: folder.path,
              manifest: manifestOf(folder),
              manifestSha256: sha256(folder.manifestJson),
            }),
          },
        },
      });
      await reaches(lab, operation.id, SUCCEEDED);
      agent.folders.push(folder);
      return { id: operation.backupId, folder };
    };
    /** Works on the rows of the catalogue while no controller does. */
    const withRows = async <Result>(
      work: (store: Awaited<ReturnType<typeof openStore>>) => Promise<Result>,
    ): Promise<Result> => {
      await lab.stopController();
      const store = await openStore(lab.state.place, MASTER_KEY);
      try {
        return await work(store);
      } finally {
        await store.close();
        await lab.restartController();
      }
    };
    /** All but to whom a backup is wrapped beside the zone's key, which its files do not show. */
    const rows = async (): Promise<BackupTable[]> => {
      const all = await withRows(({ db }) => db.selectFrom('backups').selectAll().orderBy('id').execute());
      return all.map((row) => ({ ...row, escrow_id: '' }));
    };
    /** Loses the catalogue; without the keys too. */
    const lose = (keys: boolean): Promise<void> =>
      withRows(async ({ db }) => {
        await db.deleteFrom('backups').execute();
        if (keys) await db.deleteFrom('keys').execute();
      });

    it('makes the rows that were lost, plain and encrypted, equal to the last byte', async () => {
      await backedUp();
      await setSettings(lab, { 'nas.backup.encryption.passphrase': 'of the zone' });
      await backedUp({ 'nas.backup.encryption.enabled': 'true', 'nas.backup.compression.enabled': 'true' });
      const before = await rows();
      assert.equal(before.length, 2);
      for (const withKeys of [false, true]) {
        await lose(withKeys);
        const dry = await rescan(true);
        const { findings, figures } = await rescan();
        // Had anything been entered, it would be known now.
        assert.deepEqual(findings, dry.findings);
        assert.deepEqual(figures, { folders: 2n, imported: 2n, known: 0n, others: 0n, done: true });
        assert.deepEqual(
          findings.map(({ outcome, authentic, message }) => [outcome, authentic, message !== '']),
          [
            [IMPORTED, false, false],
            [IMPORTED, !withKeys, withKeys],
          ],
        );
        assert.deepEqual(await rows(), before);
        const again = await rescan();
        assert.deepEqual(again.findings, []);
        assert.deepEqual(again.figures, { folders: 2n, imported: 0n, known: 2n, others: 0n, done: true });
      }
      // Without its key, it is there and says why it cannot be used.
      const sealed = before.find((row) => row.encrypted === 1);
      assert.ok(sealed);
      const { backups } = lab.clients;
      const restore = ask(backups.restoreBackup.bind(backups), {
        ...{ backupId: sealed.id, host: 'h1', directory: '/tmp', format: 0, disks: [], domainName: '' },
        ...{ bandwidthLimitMibps: 0n, passphrase: '', requestId: '', rbd: undefined },
      });
      const error = await refused(restore, 'KEY_MISSING');
      assert.equal(error.metadata['key'], sealed.key_id);
    });

    it('enters nothing that is foreign, damaged, moved or not authentic', async () => {
      await setSettings(lab, { 'nas.backup.encryption.passphrase': 'of the zone' });
      const { folder } = await backedUp({ 'nas.backup.encryption.enabled': 'true' });
      await lose(false);
      const state = (name: keyof typeof ScannedFolderState): ScannedFolder =>
        ScannedFolder.fromPartial({
          path: name,
          state: ScannedFolderState[name],
          message: 'why',
        });
      const otherZone = scanned({ backupId: randomUUID(), domain: randomUUID() }, { zone: 'z2' });
      const edited = Buffer.from(Buffer.from(folder.manifestJson).toString().replace('"vm"', '"VM"'));
      agent.folders = [
        state('SCANNED_FOLDER_STATE_FOREIGN'),
        state('SCANNED_FOLDER_STATE_DAMAGED'),
        state('SCANNED_FOLDER_STATE_MOVED'),
        state('SCANNED_FOLDER_STATE_UNFINISHED'),
        otherZone,
        { ...folder, manifestJson: edited },
        { ...folder, keys: folder.keys.map((key) => ({ ...key, wrappedKey: Buffer.from('spoilt') })) },
      ];
      const { findings, figures } = await rescan();
      assert.deepEqual(
        findings.map(({ outcome }) => outcome),
        [FOREIGN, DAMAGED, MOVED, RescanOutcome.RESCAN_OUTCOME_UNFINISHED, FOREIGN, DAMAGED, DAMAGED],
      );
      assert.ok(findings.every(({ message }) => message !== ''));
      assert.match(findings[5]?.message ?? '', /not authentic/);
      assert.equal(figures?.imported, 0n);
      assert.deepEqual(await rows(), []);
    });

    it('overwrites nothing that is known, and tells what differs and what is missing', async () => {
      const changed = await backedUp();
      const gone = await backedUp();
      const copied = await backedUp();
      const before = await rows();
      const bytes = Buffer.concat([changed.folder.manifestJson, Buffer.from('\n')]);
      const copy = { ...copied.folder, path: copied.folder.path.replace(/\/\d{4}/, '/1999') };
      agent.folders = [{ ...changed.folder, manifestJson: bytes }, copied.folder, copy];
      const { findings, figures } = await rescan();
      assert.deepEqual(
        findings.map(({ outcome, backupId }) => [outcome, backupId]),
        [
          [DIFFERENT, changed.id],
          [MOVED, copied.id],
          [MISSING, gone.id],
        ],
      );
      assert.deepEqual(figures, { folders: 3n, imported: 0n, known: 1n, others: 3n, done: true });
      assert.deepEqual(await rows(), before);
      // A known one that is damaged is named, and is not missing.
      agent.folders = [changed, copied].map(({ folder: { path } }) =>
        ScannedFolder.fromPartial({
          path,
          state: ScannedFolderState.SCANNED_FOLDER_STATE_DAMAGED,
          message: 'why',
        }),
      );
      assert.deepEqual(
        (await rescan()).findings.map(({ outcome, backupId }) => [outcome, backupId]),
        [
          [DAMAGED, changed.id],
          [DAMAGED, copied.id],
          [MISSING, gone.id],
        ],
      );
    });

    it('leaves alone what an operation is about to enter or has deleted meanwhile', async () => {
      const deleted = await backedUp();
      agent.domains = [...agent.domains, ...runningDomains('vm2')];
      const running = await takeBackup(lab, { domain: 'vm2' });
      const job = await jobOf(agent, running.id);
      agent.folders.push(scanned(job.start as TakeBackupStart));
      agent.whileScanning = async () => {
        agent.whileScanning = () => Promise.resolve();
        const { backups } = lab.clients;
        const { operation } = await ask(backups.deleteBackup.bind(backups), {
          backupId: deleted.id,
          requestId: '',
        });
        await reaches(lab, operation?.id ?? '', SUCCEEDED);
      };
      // The folder that is deleted while the first one is told of was read before.
      agent.folders = [...agent.folders.slice(1), deleted.folder];
      const { findings } = await rescan();
      assert.deepEqual(
        findings.map(({ outcome, backupId }) => [outcome, backupId]),
        [
          [BUSY, running.backupId],
          [BUSY, deleted.id],
        ],
      );
      assert.deepEqual(
        agent.deletions.map((each: DeleteBackupRequest) => each.backupId),
        [deleted.id],
      );
      job.emit(happening.backedUp(job.start as TakeBackupStart));
      await reaches(lab, running.id, SUCCEEDED);
      // Put back later on purpose, it is entered again.
      agent.folders = [deleted.folder];
      assert.equal((await rescan()).findings[0]?.outcome, IMPORTED);
    });

    it('ends at the agent too when its caller goes away, though the repository hangs', async () => {
      await backedUp();
      const [begun, left] = [Promise.withResolvers<undefined>(), Promise.withResolvers<undefined>()];
      agent.whileScanning = (signal) => {
        begun.resolve(undefined);
        signal.addEventListener('abort', () => {
          left.resolve(undefined);
        });
        return left.promise;
      };
      const { repositories } = lab.clients;
      const stream = repositories.rescanRepository({ name: 'r1', dryRun: false });
      const ended = once(stream, 'error');
      stream.resume();
      await begun.promise;
      stream.cancel();
      await Promise.all([ended, left.promise]);
      agent.whileScanning = () => Promise.resolve();
      assert.equal((await rescan()).figures?.known, 1n);
    });

    it('asks another host when one is away, and says when the repository does not answer', async () => {
      const { folder } = await backedUp();
      await lose(false);
      const other = await lab.startAgent('h2', 'z1');
      other.folders = [folder];
      const { hosts } = lab.clients;
      const address = other.address.kind === 'unix' ? `unix://${other.address.path}` : '';
      await ask(hosts.addHost.bind(hosts), { zone: 'z1', name: 'h2', address, labels: {} });
      await agent.stop();
      assert.equal((await rescan()).figures?.imported, 1n);
      other.repositoryProblem = new HoldfastError('REPOSITORY_STALLED', 'It does not answer.');
      await refused(rescan(), 'REPOSITORY_STALLED');
    });
  });
}

/** What an agent finds of the backup that it was told to take. */
function scanned(
  start: Pick<TakeBackupStart, 'backupId' | 'domain'> & Partial<Pick<TakeBackupStart, 'key' | 'options'>>,
  overrides: { readonly zone?: string } = {},
): ScannedFolder {
  const { backupId, domain, key, options } = start;
  const manifest = Manifest.fromPartial({
    version: 1,
    backupId,
    zone: 'z1',
    host: 'h1',
    snapshotTime: new Date('2026-01-02T03:04:05.678Z'),
    domainUuid: domain,
    domainName: 'vm',
    toolVersions: { qemu: '7.2.22', holdfast: '1', libvirt: '9' },
    consistency: { requested: 'off', quiesced: true },
    disks: ['vda', 'vdb'].map((target) => ({
      ...{ target, file: `${target}.qcow2`, compression: options?.compression ?? '' },
      ...{ virtualSizeBytes: 1_000n, dataBytes: 500n, storedBytes: 200n, transferredBytes: 190n },
    })),
    encryption: key && { keyId: key.keyId, macFile: 'manifest.hmac' },
    ...overrides,
  });
  const manifestJson = Buffer.from(`${JSON.stringify(Manifest.toJSON(manifest), null, 2)}\n`);
  return {
    path: `${domain}/20260102T030405Z-${backupId}`,
    state: ScannedFolderState.SCANNED_FOLDER_STATE_BACKUP,
    message: '',
    manifestJson,
    manifestMac: key === undefined ? '' : manifestMac(manifestJson, new Secret(key.secret)),
    keys: key === undefined ? [] : [{ keyId: key.keyId, wrappedKey: key.wrappedKey }],
  };
}

function manifestOf({ manifestJson }: ScannedFolder): Manifest {
  return Manifest.fromJSON(JSON.parse(Buffer.from(manifestJson).toString()));
}

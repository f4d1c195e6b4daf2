import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import type { TakeBackupStart, VerifyBackupStart } from '@holdfast/proto/holdfast/agent/v1/agent.ts';
import { BackupState, VerifyBackupRequest, type Backup } from '@holdfast/proto/holdfast/v1/backup.ts';
import { BackupResult } from '@holdfast/proto/holdfast/v1/event.ts';
import { Manifest } from '@holdfast/proto/holdfast/v1/manifest.ts';
import { OperationState, type Operation } from '@holdfast/proto/holdfast/v1/operation.ts';
import { happening, type FakeAgent } from '../testing/fake-agent.ts';
import {
  ask,
  jobOf,
  MASTER_KEY,
  reaches,
  setSettings,
  startLab,
  takeBackup,
  watch,
  type Lab,
} from '../testing/lab.ts';
import { openStore } from '../store/store.ts';
import { noteVerification, type Verification } from './proofs.ts';

const { OPERATION_STATE_SUCCEEDED: SUCCEEDED, OPERATION_STATE_FAILED: FAILED } = OperationState;
const { BACKUP_STATE_AVAILABLE, BACKUP_STATE_DAMAGED } = BackupState;

for (const kind of ['sqlite', 'postgres'] as const) {
  describe(`what the catalogue remembers of proofs (${kind})`, () => {
    let lab: Lab;
    let agent: FakeAgent;
    beforeEach(async () => {
      lab = await startLab(kind);
      agent = await lab.furnish();
    });
    afterEach(() => lab.close());

    /** Takes a backup whose figures the test says. */
    const backedUp = async (given: {
      readonly dataBytes?: bigint;
      readonly storedBytes?: bigint;
      readonly checked?: boolean;
      readonly dayOfMonth?: number;
    }): Promise<Operation> => {
      const { dataBytes = 500n, storedBytes = 200n, checked = false, dayOfMonth = 1 } = given;
      const operation = await takeBackup(lab);
      const job = await jobOf(agent, operation.id);
      const start = job.start as TakeBackupStart;
      const manifest = Manifest.fromPartial({
        ...{ version: 1, backupId: start.backupId, domainUuid: start.domain, domainName: 'vm', checked },
        operationId: operation.id,
        snapshotTime: new Date(Date.UTC(2026, 0, dayOfMonth)),
        disks: [
          {
            ...{ target: 'vda', dataBytes, storedBytes, compression: start.options?.compression ?? '' },
            ...{ storedDigests: {}, contentDigests: {} },
          },
        ],
      });
      const value = BackupResult.fromPartial({ path: `p/${start.backupId}`, manifest });
      job.emit({ $case: 'completed', value: { result: { $case: 'backup', value } } });
      return await reaches(lab, operation.id, SUCCEEDED);
    };
    const getBackup = async (backupId: string): Promise<Backup> => {
      const { backups } = lab.clients;
      const { backup } = await ask(backups.getBackup.bind(backups), { backupId });
      assert.ok(backup);
      return backup;
    };
    const damagedOnes = async (): Promise<string[]> => {
      const { backups } = lab.clients;
      const request = { zone: '', domain: '', pageSize: 0, pageToken: '', damaged: true };
      const page = await ask(backups.listBackups.bind(backups), request);
      assert.ok(page.backups.every(({ state }) => state === BACKUP_STATE_DAMAGED));
      return page.backups.map(({ id }) => id);
    };
    /** Verifies a backup, which comes to an error or to none. */
    const verify = async (backupId: string, reason?: Reason): Promise<Operation> => {
      const { backups } = lab.clients;
      const request = VerifyBackupRequest.fromPartial({ backupId });
      const { operation } = await ask(backups.verifyBackup.bind(backups), request);
      assert.ok(operation);
      const job = await jobOf(agent, operation.id);
      job.emit(
        reason === undefined ? happening.verified() : happening.failed(new HoldfastError(reason, 'of it')),
      );
      return await reaches(lab, operation.id, reason === undefined ? SUCCEEDED : FAILED);
    };

    it('a backup that was checked when it was taken is proved since its snapshot', async () => {
      const { id, backupId } = await backedUp({ checked: true });
      const { lastProof, state, lastVerification } = await getBackup(backupId);
      const time = new Date('2026-01-01T00:00:00Z');
      assert.deepEqual(lastProof, { time, level: 'metadata', operationId: id, samplePercent: 100 });
      assert.deepEqual([state, lastVerification], [BACKUP_STATE_AVAILABLE, undefined]);
      const unchecked = await getBackup((await backedUp({})).backupId);
      assert.deepEqual([unchecked.state, unchecked.lastProof], [BACKUP_STATE_AVAILABLE, undefined]);
    });

    it('a damaged one is shown so until it is proved again; other failures say nothing of it', async () => {
      const { backupId } = await backedUp({});
      const good = await verify(backupId);
      for (const reason of ['REPOSITORY_STALLED', 'QEMU_FAILED', 'CANCELLED'] as const) {
        if (reason !== 'CANCELLED') await verify(backupId, reason);
        assert.equal((await getBackup(backupId)).lastProof?.operationId, good.id);
        assert.deepEqual(await damagedOnes(), []);
      }
      for (const reason of ['BACKUP_DAMAGED', 'CHECK_FAILED', 'BACKUP_NOT_FOUND'] as const) {
        const bad = await verify(backupId, reason);
        const { state, damage, lastProof } = await getBackup(backupId);
        assert.equal(state, BACKUP_STATE_DAMAGED);
        assert.deepEqual(
          [damage?.operationId, damage?.level, damage?.message],
          [bad.id, 'metadata', 'of it'],
        );
        assert.equal(lastProof?.operationId, good.id);
        await verify(backupId, 'REPOSITORY_STALLED');
        assert.deepEqual(await damagedOnes(), [backupId]);
      }
      const again = await verify(backupId);
      const { state, damage, lastProof } = await getBackup(backupId);
      assert.deepEqual([state, damage], [BACKUP_STATE_AVAILABLE, undefined]);
      assert.equal(lastProof?.operationId, again.id);
      assert.deepEqual(await damagedOnes(), []);
    });

    it('only a proof of all of it, at each level that found damage, takes a damage away', async () => {
      const { backupId } = await backedUp({});
      await lab.stopController();
      const store = await openStore(lab.state.place, MASTER_KEY);
      let day = 0;
      const note = (given: Partial<Verification>): Promise<unknown> =>
        store.transact((trx) =>
          noteVerification(
            trx,
            backupId,
            {
              ...{ time: new Date(0), level: 'content', samplePercent: 100 },
              ...{ operationId: 'o', intact: true, message: '', scrub: false, ...given },
            },
            new Date(Date.UTC(2026, 1, ++day)),
          ),
        );
      const row = () =>
        store.db.selectFrom('backups').selectAll().where('id', '=', backupId).executeTakeFirstOrThrow();
      const isDamaged = async (): Promise<boolean> => (await row()).damage_time !== null;
      await note({ intact: false, level: 'stored', message: 'flipped' });
      await note({ intact: false, level: 'metadata', message: 'flipped too' });
      assert.deepEqual(
        [(await row()).damage_level, (await row()).damage_text],
        ['stored, metadata', 'flipped too'],
      );
      await note({ level: 'metadata' });
      await note({ level: 'content', samplePercent: 50 });
      // What the guest sees is whole, and the file is not as it was.
      await note({ level: 'content' });
      assert.ok(await isDamaged());
      assert.equal((await row()).damage_level, 'stored');
      await note({ level: 'stored' });
      assert.ok(!(await isDamaged()));
      // By the controller's clock, whole proofs and those of scrubs at each level.
      const at = (of: number): string => new Date(Date.UTC(2026, 1, of)).toISOString();
      const unproved = async (): Promise<readonly string[]> => {
        const { metadata_unproved_since, stored_unproved_since, content_unproved_since } = await row();
        return [metadata_unproved_since, stored_unproved_since, content_unproved_since];
      };
      assert.deepEqual(await unproved(), [at(6), at(6), at(5)]);
      await note({ level: 'content', samplePercent: 5 });
      assert.deepEqual(await unproved(), [at(6), at(6), at(5)]);
      await note({ level: 'content', samplePercent: 5, scrub: true });
      assert.deepEqual(await unproved(), [at(8), at(6), at(8)]);
      await store.close();
      await lab.restartController();
    });

    it('samples go through all of a backup, at each level by itself, and one that came to nothing is taken again', async () => {
      const { backupId } = await backedUp({});
      const { backups } = lab.clients;
      const sample = async (level: string, error?: HoldfastError): Promise<bigint> => {
        const request = VerifyBackupRequest.fromPartial({ backupId, level, samplePercent: 50 });
        const { operation } = await ask(backups.verifyBackup.bind(backups), request);
        const job = await jobOf(agent, operation?.id ?? '');
        const value = { level, disks: [], samplePercent: 50 };
        job.emit(
          error === undefined
            ? { $case: 'completed', value: { result: { $case: 'verification', value } } }
            : happening.failed(error),
        );
        await reaches(lab, operation?.id ?? '', error === undefined ? SUCCEEDED : FAILED);
        return (job.start as VerifyBackupStart).sampleIndex;
      };
      const stalled = new HoldfastError('REPOSITORY_STALLED', 'the NAS does not answer');
      const taken = [
        await sample('content'),
        await sample('stored'),
        await sample('content', stalled),
        await sample('content'),
        await sample('stored'),
        await sample('content'),
      ];
      assert.deepEqual(taken, [0n, 0n, 1n, 1n, 1n, 2n]);
    });

    it('what is unusual is told in the operation and of the backup, unless that is switched off', async () => {
      const MiB = 1024n * 1024n;
      for (let dayOfMonth = 1; dayOfMonth <= 6; dayOfMonth++) {
        const usual = await backedUp({ dataBytes: 1_000n * MiB, storedBytes: 1_000n * MiB, dayOfMonth });
        assert.deepEqual(usual.warnings, []);
      }
      await setSettings(lab, { 'nas.backup.plausibility.tolerance.percent': '0' });
      const silent = await backedUp({ dataBytes: 9_000n * MiB, storedBytes: 9_000n * MiB, dayOfMonth: 7 });
      assert.deepEqual(silent.warnings, []);
      await setSettings(lab, {}, ['nas.backup.plausibility.tolerance.percent']);
      const dayOfMonth = 8;
      const huge = await backedUp({ dataBytes: 4_000n * MiB, storedBytes: 4_000n * MiB, dayOfMonth });
      assert.deepEqual(
        huge.warnings.map(({ reason }) => reason),
        ['IMPLAUSIBLE_SIZE'],
      );
      assert.deepEqual((await getBackup(huge.backupId)).warnings, huge.warnings);
      const watched = watch(lab, huge.id);
      await watched.ended;
      assert.deepEqual(
        watched.events.map(({ event }) => event?.$case),
        ['warning', 'completed'],
      );
      assert.deepEqual(
        watched.events.map(({ sequence }) => sequence),
        [1n, 2n],
      );
    });
  });
}

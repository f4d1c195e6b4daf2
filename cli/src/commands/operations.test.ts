import assert from 'node:assert/strict';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import { Stage } from '@holdfast/proto/holdfast/v1/event.ts';
import {
  Operation,
  OperationKind,
  OperationOrigin,
  OperationState,
} from '@holdfast/proto/holdfast/v1/operation.ts';
import { run } from '../run.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';
import { scriptedController } from '../testing/scripted-controller.ts';

describe('operations', () => {
  it('asks for what was named, and shows where an operation failed', async () => {
    const operation = Operation.fromPartial({
      id: 'op-1',
      kind: OperationKind.OPERATION_KIND_VERIFY_BACKUP,
      origin: OperationOrigin.OPERATION_ORIGIN_SCRUB,
      state: OperationState.OPERATION_STATE_FAILED,
      error: toStatus(new HoldfastError('CHECK_FAILED', 'The image is corrupt.')),
      failedStage: Stage.STAGE_CHECK,
      failedDisk: 'vdb',
    });
    const controller = await scriptedController([], operation);
    try {
      const terminal = fakeTerminal();
      const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
      const filter = [
        '--zone',
        'z1',
        '--host',
        'h1',
        '--domain',
        'vm1',
        '--state',
        'failed',
        '--state',
        'verifying',
      ];
      const times = ['--since', '2026-11-25', '--before', '2026-11-25T08:30'];
      const argv = ['--controller', controller.address, 'operations', ...filter, ...times];
      assert.equal(await run(argv, { terminal, loadParts }), 0, terminal.printed.err);
      assert.deepEqual(controller.listed, [
        {
          ...{ zone: 'z1', host: 'h1', domain: 'vm1', activeOnly: false, pageSize: 0, pageToken: '' },
          states: [OperationState.OPERATION_STATE_FAILED, OperationState.OPERATION_STATE_VERIFYING],
          createTimeFrom: new Date('2026-11-25T00:00:00Z'),
          createTimeBefore: new Date('2026-11-25T08:30:00Z'),
        },
      ]);
      assert.match(
        terminal.printed.out,
        /verify backup \(scrub\) +failed .*check vdb: The image is corrupt\./,
      );
    } finally {
      await controller.close();
    }
  });
});

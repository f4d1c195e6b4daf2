import assert from 'node:assert/strict';
import { HoldfastError, toStatus } from '@holdfast/common/errors.ts';
import { Leftover, LeftoverKind, LeftoverState } from '@holdfast/proto/holdfast/v1/leftover.ts';
import { run } from '../run.ts';
import { fakeTerminal } from '../testing/fake-terminal.ts';
import { scriptedController, type ScriptedController } from '../testing/scripted-controller.ts';

describe('holdfast doctor', () => {
  let controller: ScriptedController;
  beforeEach(async () => {
    controller = await scriptedController([]);
  });
  afterEach(() => controller.close());

  const doctor = async (
    ...argv: string[]
  ): Promise<{ readonly code: number; readonly out: string; readonly err: string }> => {
    const terminal = fakeTerminal({});
    const loadParts = (): Promise<never> => Promise.reject(new Error('not in this test'));
    const code = await run(['--controller', controller.address, 'doctor', ...argv], { terminal, loadParts });
    const { out, err } = terminal.printed;
    return { code, out, err };
  };
  const leftover = (state: LeftoverState, repository = ''): Leftover =>
    Leftover.fromPartial({
      kind: LeftoverKind.LEFTOVER_KIND_LIBVIRT_JOB,
      ...{
        host: repository === '' ? 'h1' : '',
        repository,
        name: 'domain \u001b[31m',
        state,
        reason: 'Because.',
      },
    });

  it('says that nothing is left, with success', async () => {
    assert.deepEqual(await doctor(), { code: 0, out: 'Nothing is left over.\n', err: '' });
  });

  it('lists what it finds, says how to remove it, and ends with 9', async () => {
    controller.leftovers.push(
      leftover(LeftoverState.LEFTOVER_STATE_REMOVABLE),
      leftover(LeftoverState.LEFTOVER_STATE_KEPT, 'nas'),
    );
    const { code, out, err } = await doctor();
    assert.equal(code, 9);
    assert.match(out, /^h1 +libvirt-job +removable +domain \\x1b\[31m +Because\.$/m);
    assert.match(out, /^repository nas +libvirt-job +kept /m);
    assert.equal(err, 'holdfast: One leftover can be removed: holdfast doctor --remove [LEFTOVERS]\n');
    assert.deepEqual(controller.leftoversRemoved, []);
    const json = await doctor('--json');
    const [first] = (JSON.parse(json.out) as { leftovers: { kind: string; state: string }[] }).leftovers;
    assert.deepEqual([first?.kind, first?.state], ['LEFTOVER_KIND_LIBVIRT_JOB', 'LEFTOVER_STATE_REMOVABLE']);
    assert.equal(json.code, 9);
  });

  it('removes only when it is told to, and ends with 9 when something stays that should not', async () => {
    controller.leftovers.push(
      leftover(LeftoverState.LEFTOVER_STATE_REMOVED),
      leftover(LeftoverState.LEFTOVER_STATE_KEPT),
    );
    assert.equal((await doctor('--remove', '--host', 'h1')).code, 0);
    assert.deepEqual(controller.leftoversRemoved, ['h1']);
    controller.leftovers.push(leftover(LeftoverState.LEFTOVER_STATE_FAILED));
    const { code, err } = await doctor('--remove');
    assert.equal(code, 9);
    assert.match(err, /One leftover could not be removed/);
  });

  it('tells which places it could not look at, and ends with 5', async () => {
    const error = toStatus(new HoldfastError('REPOSITORY_STALLED', 'Repository nas did not answer.'));
    controller.problems.push({ host: '', repository: 'nas', error });
    const { code, out, err } = await doctor();
    assert.equal(code, 5);
    assert.equal(out, 'Nothing is left over where it could be looked.\n');
    assert.match(err, /^Not looked at: repository nas: Repository nas did not answer\.$/m);
  });
});

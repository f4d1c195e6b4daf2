import assert from 'node:assert/strict';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { isReason, reasons, type Reason } from '@holdfast/common/reasons.ts';
import { CommandError, usage } from './command-error.ts';
import { ExitCode, exitCodeHelp, exitCodeOf } from './exit.ts';

describe('exit codes', () => {
  it('tell the kinds of failure apart', () => {
    const expected: Partial<Record<Reason, number>> = {
      INVALID_REQUEST: 2,
      KEY_WRONG: 2,
      DOMAIN_NOT_FOUND: 3,
      DOMAIN_BUSY: 4,
      PASSPHRASE_MISSING: 4,
      TARGET_EXISTS: 4,
      AGENT_UNREACHABLE: 5,
      BACKUP_DAMAGED: 6,
      CHECK_FAILED: 6,
      REPOSITORY_FULL: 7,
      SCRATCH_FULL: 7,
      CANCELLED: 8,
      CERTIFICATE_REFUSED: 10,
      PERMISSION_DENIED: 10,
      RATE_LIMITED: 5,
      INTERNAL: 1,
    };
    for (const [reason, code] of Object.entries(expected)) {
      assert.ok(isReason(reason));
      assert.equal(exitCodeOf(new HoldfastError(reason, '')), code, reason);
    }
  });

  it('are never success for a failure', () => {
    for (const reason of Object.keys(reasons).filter(isReason)) {
      assert.notEqual(exitCodeOf(new HoldfastError(reason, '')), ExitCode.SUCCESS, reason);
    }
    assert.equal(exitCodeOf(new Error('a bug')), ExitCode.FAILED);
    assert.equal(exitCodeOf(usage('')), ExitCode.INVALID);
    assert.equal(exitCodeOf(new CommandError('INTERRUPTED', '')), ExitCode.INTERRUPTED);
    assert.equal(exitCodeOf(new CommandError('CONTROLLER_UNREACHABLE', '')), ExitCode.UNAVAILABLE);
  });

  it('are all in the help', () => {
    for (const code of Object.values(ExitCode)) assert.match(exitCodeHelp, new RegExp(`^  ${code} `, 'm'));
  });
});

import { setTimeout as sleep } from 'node:timers/promises';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { stateOrGone } from './domains.ts';
import { sentence, type Virsh } from './virsh.ts';

/** A guest is frozen for no longer than this, whatever happens. */
export const FREEZE_LIMIT_MS = 15_000;

const THAW_DEADLINE_MS = 30_000;
const AGENT_ANSWER_S = '10';
const ASK_S = '5';
const ASK_DEADLINE_MS = 10_000;
const THAW_PATIENCE_MS = 120_000;
const THAW_PAUSE_MS = 1_000;
/** States in which there is nothing to thaw. */
const OFF = ['shut off', 'crashed', 'gone'];

/** How a freeze went. */
export interface Freeze {
  readonly frozen: boolean;
  /** Whether a thaw is owed: also when the agent took the command and did not answer. */
  readonly thawOwed: boolean;
  /** Why not, in words. */
  readonly message: string;
}

/** Freezes the guest's mounted file systems through its agent. */
export async function freeze(virsh: Virsh, uuid: string, signal: AbortSignal): Promise<Freeze> {
  // Without it, an agent that takes a command and never answers holds libvirt for ever.
  await virsh.attempt(['guest-agent-timeout', uuid, '--timeout', AGENT_ANSWER_S], { signal });
  const result = await virsh
    .attempt(['domfsfreeze', uuid], { deadlineMs: FREEZE_LIMIT_MS, signal })
    .catch((error: unknown) => {
      if (!(error instanceof HoldfastError)) throw error;
      return error;
    });
  if (result instanceof HoldfastError) return { frozen: false, thawOwed: true, message: result.message };
  if (result.exitCode === 0) {
    return { frozen: true, thawOwed: true, message: 'The file systems were frozen by the guest agent.' };
  }
  const message = sentence(result.stderr);
  return { frozen: false, thawOwed: !/agent is not (connected|configured)/i.test(message), message };
}

/** Whether the guest's agent says that its file systems are frozen. One that does not answer has said nothing. */
export async function isFrozen(virsh: Virsh, uuid: string): Promise<boolean> {
  const question = JSON.stringify({ execute: 'guest-fsfreeze-status' });
  const command = ['qemu-agent-command', uuid, question, '--timeout', ASK_S];
  const answer = await virsh.attempt(command, { deadlineMs: ASK_DEADLINE_MS }).catch((error: unknown) => {
    if (!(error instanceof HoldfastError)) throw error;
    return undefined;
  });
  return answer?.exitCode === 0 && /"return"\s*:\s*"frozen"/.test(answer.stdout);
}

/**
 * Thaws the guest's file systems, and tries again until the agent says that they are thawed or the domain is not
 * running any more. Thawing what is not frozen does nothing.
 *
 * @throws HoldfastError QUIESCE_FAILED when the guest may still be frozen.
 */
export async function thaw(virsh: Virsh, uuid: string): Promise<void> {
  let said = '';
  const startedMs = performance.now();
  while (performance.now() - startedMs < THAW_PATIENCE_MS) {
    try {
      const { exitCode, stderr } = await virsh.attempt(['domfsthaw', uuid], { deadlineMs: THAW_DEADLINE_MS });
      if (exitCode === 0 || OFF.includes(await stateOrGone(virsh, uuid))) return;
      said = sentence(stderr);
    } catch (error) {
      // A virsh that hangs is no answer either.
      if (!(error instanceof HoldfastError)) throw error;
      said = error.message;
    }
    await sleep(THAW_PAUSE_MS);
  }
  throw new HoldfastError(
    'QUIESCE_FAILED',
    `The file systems of domain ${uuid} may still be frozen: ${said} ` +
      `Thaw them with: virsh domfsthaw ${uuid}`,
  );
}

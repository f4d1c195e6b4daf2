/**
 * The program that touches a repository: one process for each repository, because a call into a hung NAS never comes
 * back and would take its whole process with it. Speaks over the IPC channel of child_process.fork.
 */
import { HoldfastError } from '@holdfast/common/errors.ts';
import type { Reason } from '@holdfast/common/reasons.ts';
import { operationsOn, type Operations } from './operations.ts';

/** One call. */
export interface HelperRequest {
  readonly id: number;
  readonly operation: keyof Operations;
  readonly args: readonly unknown[];
}

/** Its answer. */
export type HelperResponse =
  { readonly id: number; readonly result: unknown } | { readonly id: number; readonly error: HelperError };

/** An error as it goes over IPC: with the reason of a HoldfastError, or the code of one of the system. */
export interface HelperError {
  readonly reason: Reason | undefined;
  readonly code: string;
  readonly message: string;
}

const [root, repositoryId] = process.argv.slice(2);
if (root === undefined || repositoryId === undefined || process.send === undefined)
  throw new Error('started by the agent only');
const operations = operationsOn(root, repositoryId);
const answer = (response: HelperResponse): boolean | undefined => process.send?.(response);

process.on('message', (request: HelperRequest) => {
  const call = operations as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
  const done = call[request.operation]?.(...request.args) ?? Promise.reject(new Error('no such operation'));
  done.then(
    (result) => answer({ id: request.id, result }),
    (error: unknown) => {
      const { code = '', message } = error as NodeJS.ErrnoException;
      const reason = error instanceof HoldfastError ? error.reason : undefined;
      return answer({ id: request.id, error: { reason, code, message } });
    },
  );
});
// The parent is gone, and with it the only one who could ask.
process.on('disconnect', () => process.exit(0));

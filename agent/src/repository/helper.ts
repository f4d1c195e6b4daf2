/**
 * The program that touches a repository: one process for each repository, because a call into a hung NAS never comes
 * back and would take its whole process with it. Speaks over the IPC channel of child_process.fork.
 */
import { operationsOn, type Operations } from './operations.ts';

/** One call. */
export interface HelperRequest {
  readonly id: number;
  readonly operation: keyof Operations;
  readonly args: readonly unknown[];
}

/** Its answer. */
export type HelperResponse =
  | { readonly id: number; readonly result: unknown }
  | { readonly id: number; readonly error: { readonly code: string; readonly message: string } };

const [root] = process.argv.slice(2);
if (root === undefined || process.send === undefined) throw new Error('started by the agent only');
const operations = operationsOn(root);
const answer = (response: HelperResponse): boolean | undefined => process.send?.(response);

process.on('message', (request: HelperRequest) => {
  const call = operations as unknown as Record<string, (...args: readonly unknown[]) => Promise<unknown>>;
  const done = call[request.operation]?.(...request.args) ?? Promise.reject(new Error('no such operation'));
  done.then(
    (result) => answer({ id: request.id, result }),
    (error: unknown) => {
      const { code = '', message } = error as NodeJS.ErrnoException;
      return answer({ id: request.id, error: { code, message } });
    },
  );
});
// The parent is gone, and with it the only one who could ask.
process.on('disconnect', () => process.exit(0));

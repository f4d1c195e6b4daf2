import type { RunResult } from '../process/run.ts';
import type { Virsh } from '../libvirt/virsh.ts';

/** A libvirt that answers by rule and remembers what it was told. For what a real one does not do on demand. */
export function scriptedVirsh(
  answer: (args: readonly string[]) => Partial<RunResult> = () => ({}),
): Virsh & { readonly told: (readonly string[])[] } {
  const told: (readonly string[])[] = [];
  const attempt = (args: readonly string[]): Promise<RunResult> => {
    told.push(args);
    return Promise.resolve({ exitCode: 0, stdout: '', stderr: '', ...answer(args) });
  };
  return { uri: 'test:///default', told, attempt, command: async (args) => (await attempt(args)).stdout };
}

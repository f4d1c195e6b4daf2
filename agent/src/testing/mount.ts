import { mkdir } from 'node:fs/promises';
import { run } from '../process/run.ts';

/** Mounts a small tmpfs on a directory, which is made, until the end of the scope. Needs root. */
export async function smallFileSystem(
  path: string,
  options: string,
): Promise<AsyncDisposable & { readonly path: string }> {
  await mkdir(path, { recursive: true });
  await must('mount', ['-t', 'tmpfs', '-o', options, 'holdfast-test', path]);
  return { path, [Symbol.asyncDispose]: () => must('umount', ['--lazy', path]) };
}

/** Runs a program that must succeed and returns what it prints. */
export async function output(file: string, args: readonly string[]): Promise<string> {
  const { exitCode, stdout, stderr } = await run(file, args, { deadlineMs: 60_000 });
  if (exitCode !== 0) throw new Error(`${file}: ${stderr}`);
  return stdout;
}

async function must(file: string, args: readonly string[]): Promise<void> {
  await output(file, args);
}

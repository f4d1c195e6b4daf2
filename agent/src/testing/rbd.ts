import { chmod, mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What the program says: its exit code, standard output and standard error. */
export interface RbdAnswer {
  readonly exitCode?: number;
  readonly stdout?: string;
  readonly stderr?: string;
}

/** A program `rbd` in front of the real one, for answers that a cluster does not give on demand. Gone with its scope. */
export interface ScriptedRbd extends Disposable {
  /** What it says from now on to a subcommand such as `info`; nothing, and success, to all others. */
  answer(subcommand: string, answer: RbdAnswer): Promise<void>;
  /** The arguments that it was called with, a line for each call. Each file with a key was readable meanwhile. */
  told(): Promise<string[]>;
}

const SCRIPT = `#!/bin/sh
here=$(dirname "$0")
key=
for argument; do
  case $argument in
    --keyfile=*) key=" key=$(cat "\${argument#--keyfile=}")" ;;
    -*) ;;
    *) command=\${command:-$argument} ;;
  esac
done
[ "$command" != snap ] || command="snap-$(echo "$*" | sed 's/.*snap \\([a-z]*\\) .*/\\1/')"
echo "$*$key" >>"$here/told"
[ -e "$here/$command.out" ] || exit 0
cat "$here/$command.out"
cat "$here/$command.err" >&2
exit "$(cat "$here/$command.code")"
`;

export async function scriptedRbd(directory: string): Promise<ScriptedRbd> {
  const bin = join(directory, 'bin');
  await mkdir(bin);
  await writeFile(join(bin, 'rbd'), SCRIPT);
  await chmod(join(bin, 'rbd'), 0o755);
  const { PATH = '' } = process.env;
  process.env.PATH = `${bin}:${PATH}`;
  return {
    answer: async (subcommand, { exitCode = 0, stdout = '', stderr = '' }) => {
      await writeFile(join(bin, `${subcommand}.code`), String(exitCode));
      await writeFile(join(bin, `${subcommand}.err`), stderr);
      await writeFile(join(bin, `${subcommand}.out`), stdout);
    },
    told: async () => {
      const text = await readFile(join(bin, 'told'), 'utf8').catch(() => '');
      return text.split('\n').filter(Boolean);
    },
    [Symbol.dispose]: () => {
      process.env.PATH = PATH;
    },
  };
}

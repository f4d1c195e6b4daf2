import { execa } from 'execa';

/** Runs one virsh command and returns what it printed. */
export type Virsh = (args: readonly string[], milliseconds?: number) => Promise<string>;

/** `virsh` for one libvirtd. Throws an Error with virsh's own message; the default deadline is 30 s. */
export function virshFor(uri: string): Virsh {
  return async (args, milliseconds = 30_000) => {
    const result = await execa('virsh', ['-q', '-c', uri, ...args], {
      timeout: milliseconds,
      killSignal: 'SIGKILL',
      env: { LC_ALL: 'C.UTF-8' },
      reject: false,
    });
    if (result.failed) {
      throw new Error(`virsh ${args[0] ?? ''}: ${result.stderr.trim() || (result.shortMessage ?? 'failed')}`);
    }
    return result.stdout;
  };
}

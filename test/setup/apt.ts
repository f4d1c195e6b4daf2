import { execa, ExecaError } from 'execa';

const MINUTE = 60_000;

/** What can be said to apt whoever runs it. `_apt` cannot write into our directories, so root downloads as root. */
const APT_OPTIONS = ['-qq', '-o', 'APT::Sandbox::User=root', '-o', 'DPkg::Lock::Timeout=300'];

/** Those of `packages` that are not installed, in the given order. */
export async function missingPackages(packages: readonly string[]): Promise<string[]> {
  const { stdout } = await execa(
    'dpkg-query',
    ['-W', '-f', '${Package} ${db:Status-Status}\n', ...packages],
    {
      // 1 means that some package is unknown to dpkg: that is the question, not an error.
      reject: false,
      stripFinalNewline: true,
      timeout: MINUTE,
    },
  );
  const installed = new Set(
    stdout
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.slice(0, line.indexOf(' '))),
  );
  return packages.filter((name) => !installed.has(name));
}

/** Installs packages, as root or through sudo. Throws an Error that says which command a person has to run. */
export async function installPackages(packages: readonly string[]): Promise<void> {
  const install = ['install', '-y', '--no-install-recommends', ...packages];
  const prefix = await rootPrefix();
  if (prefix === undefined) {
    throw new Error(
      `Installing packages needs root, and sudo is not there. Run this as root, then try again:\n` +
        `  apt-get update && apt-get ${install.join(' ')}`,
    );
  }
  await apt(prefix, ['update']);
  await apt(prefix, install);
}

/**
 * Downloads the .deb of each package into `directory` without installing it.
 * Refreshes the package lists once when they name a file that the mirror no longer has.
 */
export async function downloadPackages(names: readonly string[], directory: string): Promise<void> {
  await withFreshLists(`download ${names.join(' ')}`, () =>
    execa('apt-get', [...APT_OPTIONS, 'download', ...names], { cwd: directory, timeout: 10 * MINUTE }),
  );
}

/** The packages that an installation of `names` would add to this machine, `names` included, and without recommended ones. */
export async function additionsFor(names: readonly string[]): Promise<string[]> {
  const { stdout } = await withFreshLists(`find ${names.join(' ')}`, () =>
    execa('apt-get', ['--simulate', 'install', '--no-install-recommends', ...names], { timeout: MINUTE }),
  );
  return [...stdout.matchAll(/^Inst (\S+)/gm)].map((match) => match[1] ?? '');
}

/** The packages that `name` depends on, by apt's own lists. Empty when apt does not know `name`. */
export async function dependenciesOf(name: string): Promise<string[]> {
  const { stdout } = await execa('apt-cache', ['depends', '--important', name], {
    reject: false,
    timeout: MINUTE,
  });
  return [...stdout.matchAll(/^\s+(?:Pre)?Depends: (\S+)$/gm)].map((match) => match[1] ?? '');
}

/** Runs something of apt's, and once more after an update of the package lists when it fails. */
async function withFreshLists<Result>(what: string, ask: () => Promise<Result>): Promise<Result> {
  try {
    return await ask();
  } catch (error) {
    const prefix = await rootPrefix();
    if (prefix === undefined)
      throw explained(error, `Cannot ${what}. Run apt-get update as root, then try again`);
    await apt(prefix, ['update']);
    return ask().catch((again: unknown) => {
      throw explained(again, `Cannot ${what}. Check the network and /etc/apt/sources.list`);
    });
  }
}

async function apt(prefix: readonly string[], args: readonly string[]): Promise<void> {
  const [program = 'apt-get', ...rest] = [...prefix, 'apt-get', ...APT_OPTIONS, ...args];
  try {
    await execa(program, rest, { stdin: 'inherit', timeout: 20 * MINUTE });
  } catch (error) {
    throw explained(error, `apt-get ${args[0] ?? ''} failed. Repair what it says, then try again`);
  }
}

/** What to put before a command to run it as root: nothing, sudo (which may ask the person), or undefined. */
async function rootPrefix(): Promise<string[] | undefined> {
  const environment = ['env', 'DEBIAN_FRONTEND=noninteractive'];
  if (process.getuid?.() === 0) return environment;
  const withoutAsking = await execa('sudo', ['-n', 'true'], { reject: false, timeout: MINUTE });
  if (withoutAsking.exitCode === 0) return ['sudo', '-n', ...environment];
  if (withoutAsking.exitCode !== undefined && process.stdin.isTTY) return ['sudo', ...environment];
  return undefined;
}

function explained(error: unknown, what: string): Error {
  const said = error instanceof ExecaError && typeof error.stderr === 'string' ? error.stderr : String(error);
  return new Error(`${what}.\n${said.trim()}`, { cause: error });
}

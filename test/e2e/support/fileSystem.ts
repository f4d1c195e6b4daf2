import { copyFile, rm } from 'node:fs/promises';
import { execa } from 'execa';

const MINUTE = 60_000;
/** e2fsck(8): 1 is "file system errors corrected", which the replay of a journal counts as. */
const CORRECTED = 1;

/** Throws unless the ext4 in a raw image is clean as it is. */
export async function requireClean(image: string): Promise<void> {
  await e2fsck(['-f', '-n', image], 0);
}

/** Throws unless the ext4 in a raw image is clean after what a mount does: a replay of its journal. */
export async function requireCleanAfterReplay(image: string): Promise<void> {
  const copy = `${image}.replayed`;
  await copyFile(image, copy);
  try {
    await e2fsck(['-E', 'journal_only', '-y', copy], CORRECTED);
    // -p repairs what is safe, such as files that were open and deleted, and gives up on damage.
    await e2fsck(['-f', '-p', copy], CORRECTED);
    await e2fsck(['-f', '-n', copy], 0);
  } finally {
    await rm(copy);
  }
}

/** The text of a file on the ext4 in a raw image; undefined when it is not there. */
export async function fileIn(image: string, file: string): Promise<string | undefined> {
  // `-c` opens an image whose journal was not replayed; debugfs says on stderr what it cannot find, and exits with 0.
  const { stdout, stderr } = await execa('debugfs', ['-c', '-R', `cat ${file}`, image], {
    timeout: MINUTE,
    stripFinalNewline: false,
  });
  if (stderr.includes('File not found')) return undefined;
  if (stderr.trim().includes('\n')) throw new Error(`debugfs cat ${file} in ${image}: ${stderr}`);
  return stdout;
}

async function e2fsck(args: readonly string[], highestExitCode: number): Promise<void> {
  const { exitCode, all } = await execa('e2fsck', args, { timeout: MINUTE, reject: false, all: true });
  if (exitCode === undefined || exitCode > highestExitCode) {
    throw new Error(`e2fsck ${args.join(' ')}: exit code ${exitCode ?? 'none'}\n${all}`);
  }
}

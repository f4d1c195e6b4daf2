import { livingSupervisor, removeLabDirectory, staleLabDirectories } from './directory.ts';
import { until } from './deadline.ts';

/**
 * Ends and removes labs whose owner is gone; others are not touched. Returns the directories removed.
 * A lab normally ends by itself with its owner, this is for one whose supervisor was killed too.
 */
export async function sweepLabs(): Promise<string[]> {
  const stale = await staleLabDirectories();
  for (const directory of stale) {
    const supervisor = await livingSupervisor(directory);
    if (supervisor !== undefined) {
      process.kill(supervisor.pid, 'SIGKILL');
      await until(`The supervisor of ${directory} (pid ${supervisor.pid}) ends`, 10_000, async () =>
        (await livingSupervisor(directory)) === undefined ? true : undefined,
      );
    }
    await removeLabDirectory(directory);
  }
  return stale;
}

if (import.meta.main) {
  for (const directory of await sweepLabs()) console.log(`Removed the stale lab ${directory}`);
}

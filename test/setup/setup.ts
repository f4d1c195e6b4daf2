import { guestImage } from './guest/image.ts';
import { installPackages, missingPackages } from './apt.ts';
import { microVmImage } from './microVm/image.ts';
import { packages } from './packages.ts';
import { postgresRoot } from './postgres.ts';
import { labPrograms } from './programs.ts';

/** `make setup`, after `npm ci`: Debian packages, then what the lab's guests boot from. Run twice, it does nothing. */
async function setup(): Promise<void> {
  const missing = await missingPackages(packages);
  if (missing.length > 0) {
    console.log(`Installing Debian packages: ${missing.join(' ')}`);
    await installPackages(missing);
  }
  await guestImage();
  await microVmImage();
  await labPrograms();
  await postgresRoot();
}

try {
  await setup();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

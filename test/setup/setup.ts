import { guestImage } from './guest/image.ts';
import { installPackages, missingPackages } from './apt.ts';
import { packages } from './packages.ts';

/** `make setup`, after `npm ci`: Debian packages, then the guest's kernel and initramfs. Run twice, it does nothing. */
async function setup(): Promise<void> {
  const missing = await missingPackages(packages);
  if (missing.length > 0) {
    console.log(`Installing Debian packages: ${missing.join(' ')}`);
    await installPackages(missing);
  }
  await guestImage();
}

try {
  await setup();
} catch (error) {
  console.error(error instanceof Error ? error.message : error);
  process.exitCode = 1;
}

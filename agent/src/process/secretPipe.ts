import { randomUUID } from 'node:crypto';
import { constants, open, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Secret } from '@holdfast/common/secret.ts';
import { run } from './run.ts';

/**
 * Lets a program read a secret from a path without the secret being in any file: a FIFO in `directory` (0700), read
 * once. A FIFO, because what Node calls a pipe is a socket pair, which /dev/fd/N cannot open.
 */
export async function withSecretPipe<Result>(
  directory: string,
  secret: Secret,
  use: (path: string) => Promise<Result>,
): Promise<Result> {
  const path = join(directory, `secret-${randomUUID()}`);
  await run('mkfifo', ['-m', '600', path], { deadlineMs: 5_000 });
  // Opens when the program opens its end. When the program never did, the open below lets it end with EPIPE.
  const written = writeFile(path, secret.reveal(), { flag: constants.O_WRONLY }).catch(() => undefined);
  try {
    return await use(path);
  } finally {
    const reader = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
    await unlink(path);
    await reader.close();
    await written;
  }
}

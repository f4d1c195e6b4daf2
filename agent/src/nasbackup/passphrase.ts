import { isUtf8 } from 'node:buffer';
import { open } from 'node:fs/promises';
import { UsageError } from './arguments.ts';

const MAX_BYTES = 64 * 1024;

/**
 * The passphrase in a file: all its bytes, a newline at the end included, as QEMU itself reads such a file.
 *
 * @throws UsageError when there is none, or one that LUKS in QEMU would not take as it is.
 */
export async function readPassphrase(path: string): Promise<string> {
  const file = await open(path).catch((error: unknown) => {
    const { code } = error as NodeJS.ErrnoException;
    throw new UsageError(
      code === 'ENOENT'
        ? `Encryption passphrase file not found: ${path}`
        : `The passphrase file ${path} cannot be read (${code ?? 'unknown error'}).`,
    );
  });
  try {
    const { buffer, bytesRead } = await file
      .read(Buffer.alloc(MAX_BYTES + 1), 0, MAX_BYTES + 1)
      .catch((error: unknown) => {
        const { code } = error as NodeJS.ErrnoException;
        throw new UsageError(`The passphrase file ${path} cannot be read (${code ?? 'unknown error'}).`);
      });
    const bytes = buffer.subarray(0, bytesRead);
    if (bytesRead === 0) throw new UsageError(`The passphrase file ${path} is empty.`);
    if (bytesRead > MAX_BYTES)
      throw new UsageError(`The passphrase file ${path} is longer than ${MAX_BYTES} bytes.`);
    if (!isUtf8(bytes) || bytes.includes(0))
      throw new UsageError(
        `The passphrase file ${path} is not text in UTF-8, and QEMU takes no other passphrase.`,
      );
    return bytes.toString('utf8');
  } finally {
    await file.close();
  }
}

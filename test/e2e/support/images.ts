import { stat } from 'node:fs/promises';
import { execa } from 'execa';

/** What `qemu-img info --output=json` says, as far as tests look at it. */
export interface ImageInfo {
  readonly format: string;
  readonly encrypted?: boolean;
  readonly 'virtual-size': number;
  readonly 'actual-size': number;
  readonly 'format-specific'?: {
    readonly data: { readonly 'compression-type'?: string; readonly encrypt?: { readonly format: string } };
  };
}

const MINUTE = 60_000;

export async function imageInfo(file: string): Promise<ImageInfo> {
  const { stdout } = await execa('qemu-img', ['info', '-U', '--output=json', file], { timeout: MINUTE });
  return JSON.parse(stdout) as ImageInfo;
}

/** How many clusters of a plain qcow2 are compressed. */
export async function compressedClusters(file: string): Promise<number> {
  const { stdout } = await execa('qemu-img', ['check', '--output=json', file], { timeout: MINUTE });
  return (JSON.parse(stdout) as { 'compressed-clusters'?: number })['compressed-clusters'] ?? 0;
}

/** Throws when the guest would see other bytes in one image than in the other. The first may be in use. */
export async function requireSameContent(
  source: { readonly path: string | undefined; readonly format: string },
  copy: { readonly path: string; readonly format: string },
): Promise<void> {
  const args = ['compare', '-U', '-f', source.format, '-F', copy.format, source.path ?? '', copy.path];
  const { stdout, stderr, exitCode } = await execa('qemu-img', args, { timeout: MINUTE, reject: false });
  if (exitCode !== 0) throw new Error(`${copy.path} differs from ${source.path ?? ''}: ${stdout}${stderr}`);
}

/** What a file takes on its disk, holes left out. */
export async function allocatedBytes(file: string): Promise<number> {
  return (await stat(file)).blocks * 512;
}

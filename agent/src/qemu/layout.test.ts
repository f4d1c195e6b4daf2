import assert from 'node:assert/strict';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { MIB } from '@holdfast/common/bytes.ts';
import { Secret } from '@holdfast/common/secret.ts';
import { imageOf, KEY, never, rawSource } from '../testing/daemon.ts';
import { temporaryDirectory } from '../testing/directory.ts';
import { output } from '../testing/mount.ts';
import { withSecretPipe } from '../process/secretPipe.ts';
import { mapImage, totalBytes, type SourceSecrets } from './extents.ts';
import { checkImage } from './imageCheck.ts';
import { imageFileName, layoutName, readOptions, type ImageLayout } from './layout.ts';

/** What qemu-img itself says of an image that it opens with the key. */
async function qemuImg(
  directory: string,
  args: (image: string) => string[],
  options: object,
): Promise<string> {
  return withSecretPipe(directory, KEY, (path) =>
    output('qemu-img', [
      ...args(`json:${JSON.stringify(options)}`).slice(0, 1),
      ...['--object', `secret,id=key,file=${path}`],
      ...args(`json:${JSON.stringify(options)}`).slice(1),
    ]),
  );
}

describe('an image laid out', () => {
  const layouts: readonly ImageLayout[] = [
    { compression: '', encrypted: false },
    { compression: 'zstd', encrypted: false },
    { compression: 'zlib', encrypted: false },
    { compression: '', encrypted: true },
    { compression: 'zstd', encrypted: true },
    { compression: 'zlib', encrypted: true },
  ];
  for (const layout of layouts) {
    const how = [layout.compression, layout.encrypted ? 'encrypted' : ''].filter(Boolean).join(', ');
    it(`${how === '' ? 'plain' : how} is made, checked and read back whole, by QEMU's own tools`, async () => {
      await using directory = await temporaryDirectory();
      const source = join(directory.path, 'source');
      await rawSource(source);
      const path = join(directory.path, `a, b="c" 'ö' ${imageFileName('vda', layout)}`);
      await imageOf(directory.path, path, layout, source);

      const name = layoutName(layout);
      const secret = layout.encrypted ? KEY : undefined;
      assert.deepEqual(
        await checkImage(
          { target: 'vda', path, layout: name, secret },
          'CHECK_FAILED',
          directory.path,
          never,
        ),
        { leakedClusters: 0 },
      );
      const options = readOptions(name, layout.encrypted, path, 'key');
      const back = join(directory.path, 'back');
      await qemuImg(directory.path, (image) => ['convert', '-O', 'raw', image, back], options);
      assert.ok((await readFile(back)).equals(await readFile(source)), 'the bytes differ');

      const outer = JSON.parse(
        await output('qemu-img', [
          'info',
          '--output',
          'json',
          '-f',
          name === 'qcow2' ? 'qcow2' : 'luks',
          path,
        ]),
      ) as { encrypted?: boolean };
      assert.equal(outer.encrypted ?? false, layout.encrypted);
      const inner = JSON.parse(
        await qemuImg(directory.path, (image) => ['info', '--output', 'json', image], options),
      ) as {
        'virtual-size': number;
        'format-specific': { data: { 'compression-type': string } };
      };
      assert.equal(inner['virtual-size'], 8 * MIB);
      assert.equal(
        inner['format-specific'].data['compression-type'],
        layout.compression === 'zstd' ? 'zstd' : 'zlib',
      );
      if (layout.encrypted) assert.equal((await readFile(path)).includes('a line'), false);

      // The hole costs nothing, and text that is compressed next to nothing.
      const { size } = await stat(path);
      assert.ok(size < (layout.compression === '' ? 8 : 6) * MIB, `${size} bytes`);
      const base64 = secret && withBase64(options);
      const map = await mapImage(base64 ?? options, base64Key(secret), directory.path, never);
      assert.deepEqual([map.virtualSizeBytes, totalBytes(map.extents)], [8 * MIB, 5 * MIB]);
    });
  }
});

/** mapImage takes its secrets in base64. */
function withBase64(options: object): object {
  return JSON.parse(
    JSON.stringify(options).replaceAll('"key-secret":"key"', '"key-secret":"source-key"'),
  ) as object;
}

function base64Key(secret: Secret | undefined): SourceSecrets {
  if (secret === undefined) return new Map();
  return new Map([['source-key', new Secret(Buffer.from(secret.reveal()).toString('base64'))]]);
}

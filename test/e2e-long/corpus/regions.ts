import { open } from 'node:fs/promises';

/** The parts of an image file, as byte offsets at which one bit is flipped. */
export type Regions = ReadonlyMap<string, number>;

/** Chooses a whole number from 0 to `below` - 1. */
export type Choose = (below: number) => number;

const LUKS_MAGIC = 'LUKS\xba\xbe';
/** Header extension of qcow2 with the place of the LUKS header (qemu.git docs/interop/qcow2.txt, full disk encryption). */
const CRYPTO_HEADER = 0x0537be77;
const HEADER_EXTENSIONS_END = 0;
const SECTOR = 512;
/** The header with its extensions, one of which is a table of names. */
const HEAD_BYTES = 4_096;

/**
 * Finds the regions of an image: a qcow2, with LUKS of its own or without, or a LUKS container, of whose inside nothing but
 * noise is to be seen.
 *
 * @param inside where compressed data is in a qcow2 of the same content that lies in no container
 */
export async function regionsOf(path: string, choose: Choose, inside: number): Promise<Regions> {
  await using file = await open(path);
  const read = async (offset: number, bytes: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(bytes);
    await file.read(buffer, 0, bytes, offset);
    return buffer;
  };
  const regions = new Map<string, number>();
  const luks = async (base: number): Promise<number> => {
    const header = await read(base, 592);
    const slot = [...Array(8).keys()]
      .map((index) => 208 + 48 * index)
      .find((at) => header.readUInt32BE(at) === 0x00ac71f3);
    if (slot === undefined) throw new Error(`${path} has no key slot`);
    const [material, stripes] = [header.readUInt32BE(slot + 40), header.readUInt32BE(slot + 44)];
    regions.set('LUKS header', base + 112 + choose(20));
    regions.set('LUKS key slot', base + material * SECTOR + choose(header.readUInt32BE(108) * stripes));
    return base + header.readUInt32BE(104) * SECTOR;
  };

  const head = await read(0, HEAD_BYTES);
  if (head.subarray(0, 6).toString('latin1') === LUKS_MAGIC) {
    const payload = await luks(0);
    regions.set('qcow2 header', payload + choose(64));
    regions.set('compressed data', payload + inside);
    return regions;
  }

  const clusterBits = head.readUInt32BE(20);
  const clusterBytes = 2 ** clusterBits;
  const address = (entry: bigint): number => Number(entry & 0x00fffffffffffe00n);
  for (let at = head.readUInt32BE(100); head.readUInt32BE(at) !== HEADER_EXTENSIONS_END;) {
    const length = head.readUInt32BE(at + 4);
    if (head.readUInt32BE(at) === CRYPTO_HEADER) await luks(Number(head.readBigUInt64BE(at + 8)));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  // The place of the L1 table; the size of the disk and the like are as good.
  regions.set('qcow2 header', 40 + 5 + choose(2));
  const l1At = Number(head.readBigUInt64BE(40));
  const l2At = address((await read(l1At, 8)).readBigUInt64BE(0));
  regions.set('L1 table', l1At + 5);
  const l2 = await read(l2At, clusterBytes);
  const used = [...Array(clusterBytes / 8).keys()].filter(
    (index) => (l2.readBigUInt64BE(index * 8) & ~1n) !== 0n,
  );
  const chosen = used[choose(used.length)] ?? 0;
  const entry = l2.readBigUInt64BE(chosen * 8);
  regions.set('L2 table', l2At + chosen * 8 + 5);
  const refcountBlock = Number((await read(Number(head.readBigUInt64BE(48)), 8)).readBigUInt64BE(0));
  // Of the L1 table's own cluster, 16 bits each.
  regions.set('refcounts', refcountBlock + (l1At / clusterBytes) * 2 + 1);
  const isCompressed = (entry & (1n << 62n)) !== 0n;
  if (isCompressed) {
    const offsetBits = BigInt(62 - (clusterBits - 8));
    regions.set('compressed data', Number(entry & ((1n << offsetBits) - 1n)) + 64 + choose(64));
  } else regions.set('data', address(entry) + choose(clusterBytes));
  return regions;
}

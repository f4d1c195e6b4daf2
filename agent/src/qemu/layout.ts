/** How an image on the repository is built. What each disk's file is called and how QEMU opens it follow from this. */
export interface ImageLayout {
  readonly compression: '' | 'zstd' | 'zlib';
  readonly encrypted: boolean;
  /** Whether LUKS opens with a passphrase that people chose, so that guessing it must stay slow. */
  readonly byPassphrase?: boolean;
  /** Whether libvirt's own job writes it: in pieces of 64 KiB, each of which would write a larger cluster anew. */
  readonly pushed?: boolean;
}

/** The id under which QEMU knows the key of the backup. */
export const KEY_SECRET_ID = 'backup-key';

/**
 * A 256-bit random key gains nothing from a slow derivation, which would cost seconds for each disk. A passphrase does:
 * it gets QEMU's default.
 */
const keyDerivation = (layout: ImageLayout): object =>
  layout.byPassphrase === true ? {} : { 'iter-time': 10 };

/** Four times QEMU's default: less CPU and a smaller image (docs/decisions/007-compressed-clusters-of-256-kib.md). */
const COMPRESSED_CLUSTER_BYTES = 262_144;

/** qcow2 cannot compress and encrypt in one image ("not supported at the same time"), so then it lies inside LUKS. */
export function layoutName(layout: ImageLayout): 'qcow2' | 'luks+qcow2' {
  return layout.compression !== '' && layout.encrypted ? 'luks+qcow2' : 'qcow2';
}

/** The name of a disk's image file in the folder of a backup. */
export function imageFileName(target: string, layout: ImageLayout): string {
  return layoutName(layout) === 'luks+qcow2' ? `${target}.qcow2.luks` : `${target}.qcow2`;
}

/** The blockdev-create steps that make an empty image in the file of node `file`, with the nodes between them. */
export function creationSteps(
  layout: ImageLayout,
  nodes: TargetNodes,
  virtualSizeBytes: number,
): readonly { readonly create: object; readonly thenOpen: object }[] {
  const isCompressed = layout.compression !== '';
  const qcow2 = (file: string, extra: object): object => ({
    driver: 'qcow2',
    file,
    size: virtualSizeBytes,
    ...(isCompressed ? { 'compression-type': layout.compression } : {}),
    ...(isCompressed && layout.pushed !== true ? { 'cluster-size': COMPRESSED_CLUSTER_BYTES } : {}),
    ...extra,
  });
  if (layoutName(layout) === 'luks+qcow2') {
    return [
      {
        create: {
          driver: 'luks',
          file: nodes.file,
          size: 0,
          'key-secret': KEY_SECRET_ID,
          ...keyDerivation(layout),
        },
        thenOpen: {
          driver: 'luks',
          file: nodes.file,
          'key-secret': KEY_SECRET_ID,
          'node-name': nodes.container,
        },
      },
      {
        create: qcow2(nodes.container, {}),
        thenOpen: { driver: 'qcow2', file: nodes.container, ...writing(nodes) },
      },
    ];
  }
  const key = { format: 'luks', 'key-secret': KEY_SECRET_ID };
  return [
    {
      create: qcow2(nodes.file, layout.encrypted ? { encrypt: { ...key, ...keyDerivation(layout) } } : {}),
      thenOpen: {
        driver: 'qcow2',
        file: nodes.file,
        ...(layout.encrypted ? { encrypt: key } : {}),
        ...writing(nodes),
      },
    },
  ];
}

/** The node names of one target, from the file upwards. */
export interface TargetNodes {
  readonly file: string;
  readonly container: string;
  readonly image: string;
}

export function targetNodes(target: string): TargetNodes {
  return { file: `file-${target}`, container: `luks-${target}`, image: `image-${target}` };
}

/** The nodes that exist for a layout, from the image down to the file: the order in which they are closed. */
export function nodesTopDown(layout: ImageLayout, nodes: TargetNodes): readonly string[] {
  return layoutName(layout) === 'luks+qcow2'
    ? [nodes.image, nodes.container, nodes.file]
    : [nodes.image, nodes.file];
}

/** The node below the qcow2: what it has written is the compressed image, before any container. */
export function nodeBelowImage(layout: ImageLayout, nodes: TargetNodes): string {
  return layoutName(layout) === 'luks+qcow2' ? nodes.container : nodes.file;
}

/**
 * The options of a file that is Holdfast's own. Without QEMU's locks: nobody else writes to it, and a lock on NFS is lost
 * when the server is away for longer than its lease, after which all that is read and written fails.
 */
export function fileOptions(path: string, node?: string): object {
  return {
    driver: 'file',
    filename: path,
    locking: 'off',
    ...(node === undefined ? {} : { 'node-name': node }),
  };
}

/** The options of a finished image, for blockdev-add and, as json:{}, for qemu-img. */
export function readOptions(name: string, encrypted: boolean, path: string, secretId: string): object {
  const file = fileOptions(path);
  if (name === 'luks+qcow2') {
    return { driver: 'qcow2', file: { driver: 'luks', 'key-secret': secretId, file } };
  }
  return {
    driver: 'qcow2',
    file,
    ...(encrypted ? { encrypt: { format: 'luks', 'key-secret': secretId } } : {}),
  };
}

/** Blocks of zeroes become holes, also where the source could not say that they are. */
function writing(nodes: TargetNodes): object {
  return { 'node-name': nodes.image, 'detect-zeroes': 'unmap', discard: 'unmap' };
}

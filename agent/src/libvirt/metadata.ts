import pMap from 'p-map';
import { HoldfastError } from '@holdfast/common/errors.ts';
import { VIRSH_AT_ONCE } from './domains.ts';
import { sentence, type Virsh } from './virsh.ts';

/** What libvirt knows of a domain's snapshots and checkpoints. */
export interface Metadata {
  /** By name. */
  readonly snapshots: readonly string[];
  readonly checkpoints: readonly string[];
  /** All their elements in one document; empty when there are none. */
  readonly xml: string;
}

/** Reads the metadata of a domain's snapshots and checkpoints (virsh snapshot-dumpxml, checkpoint-dumpxml). */
export async function readMetadata(virsh: Virsh, uuid: string): Promise<Metadata> {
  const [snapshots, checkpoints] = await Promise.all([
    dumpAll(virsh, uuid, 'snapshot'),
    dumpAll(virsh, uuid, 'checkpoint'),
  ]);
  const elements = [...snapshots, ...checkpoints].map(({ xml }) => xml);
  return {
    snapshots: snapshots.map(({ name }) => name),
    checkpoints: checkpoints.map(({ name }) => name),
    xml: elements.length === 0 ? '' : `<metadata>\n${elements.join('\n')}\n</metadata>\n`,
  };
}

async function dumpAll(
  virsh: Virsh,
  uuid: string,
  what: 'snapshot' | 'checkpoint',
): Promise<readonly { readonly name: string; readonly xml: string }[]> {
  const listed = await virsh.command([`${what}-list`, uuid, '--name', '--topological']);
  const names = listed.split('\n').filter((name) => name !== '');
  const dumped = await pMap(
    names,
    async (name) => {
      const result = await virsh.attempt([`${what}-dumpxml`, `--domain=${uuid}`, `--${what}name=${name}`]);
      if (result.exitCode === 0) return { name, xml: result.stdout.replace(/^<\?xml[^>]*\?>\s*/, '').trim() };
      // It may have been deleted since it was listed.
      if (/no domain (snapshot|checkpoint) with matching/i.test(result.stderr)) return undefined;
      throw new HoldfastError('LIBVIRT_FAILED', `virsh ${what}-dumpxml: ${sentence(result.stderr)}`);
    },
    { concurrency: VIRSH_AT_ONCE },
  );
  return dumped.filter((each) => each !== undefined);
}

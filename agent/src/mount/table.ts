import { readFile } from 'node:fs/promises';

/** A line of /proc/self/mountinfo (proc_pid_mountinfo(5)). */
export interface Mount {
  readonly point: string;
  /** Such as nfs4. */
  readonly fileSystem: string;
  readonly source: string;
  /** `major:minor` of what stat(2) gives for files in it. */
  readonly device: string;
  readonly readOnly: boolean;
}

/** What is mounted at a path now, the topmost when there are several; undefined when nothing is. Touches no mount. */
export async function mountAt(point: string): Promise<Mount | undefined> {
  return (await allMounts()).findLast((mount) => mount.point === point);
}

/** What is mounted below a directory, and not on it, in the order in which it was mounted. Touches no mount. */
export async function mountsBelow(directory: string): Promise<readonly Mount[]> {
  return (await allMounts()).filter(({ point }) => point.startsWith(`${directory}/`));
}

async function allMounts(): Promise<readonly Mount[]> {
  const lines = (await readFile('/proc/self/mountinfo', 'utf8')).split('\n');
  return lines.map(parseMount).filter((mount) => mount !== undefined);
}

/** Reads a line; undefined for an empty one. */
export function parseMount(line: string): Mount | undefined {
  const [before = '', after = ''] = line.split(' - ');
  const [, , device = '', , point, options = ''] = before.split(' ');
  if (point === undefined) return undefined;
  const [fileSystem = '', source = '', superOptions = ''] = after.split(' ');
  return {
    point: unescape(point),
    fileSystem,
    source: unescape(source),
    device,
    readOnly: [options, superOptions].some((list) => list.split(',').includes('ro')),
  };
}

/** A device number of stat(2) as mountinfo writes it. The packing is glibc's makedev(3). */
export function deviceText(device: bigint): string {
  const major = ((device >> 8n) & 0xfffn) | ((device >> 32n) & ~0xfffn);
  const minor = (device & 0xffn) | ((device >> 12n) & 0xffffff00n);
  return `${major}:${minor}`;
}

/** Spaces, tabs, line feeds and backslashes are written as three octal digits. */
function unescape(text: string): string {
  const bytes = text.replaceAll(/\\([0-7]{3})/g, (_all, octal: string) =>
    String.fromCharCode(parseInt(octal, 8)),
  );
  return bytes;
}

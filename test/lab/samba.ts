import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { NAS_USER, startNas, type Nas, type NasProgram } from './nas.ts';

/** An SMB 3 server: the shares `backups` and `readonly`, for one user. */
export interface Samba extends Nas {
  readonly username: string;
  /** Has what breaks naive lists of options: a comma, quotes, a space, a dollar sign and a percent sign. */
  readonly password: string;
  /** Gives its user another password. Sessions that are there stay. */
  setPassword(password: string): Promise<void>;
}

const PASSWORD = `pass,word="it's" $HOME 100%`;

export async function startSamba(): Promise<Samba> {
  const nas = await startNas(samba);
  const setPassword = (password: string): Promise<void> => {
    const { argv, input } = passwordCommand(nas.directory, password);
    return nas.inside(argv, input);
  };
  return { ...nas, username: NAS_USER, password: PASSWORD, setPassword };
}

const samba: NasProgram = {
  name: 'samba',
  configure: async (directory, port) => {
    await mkdir(path.join(directory, 'samba'), { mode: 0o700 });
    await writeFile(configurationPath(directory), configuration(directory, port));
  },
  prepare: (directory) => passwordCommand(directory, PASSWORD),
  argv: (directory) => [
    'smbd',
    ...['--foreground', '--no-process-group', '--debug-stdout'],
    ...['-s', configurationPath(directory), '-l', path.join(directory, 'log')],
  ],
};

function passwordCommand(directory: string, password: string) {
  return {
    argv: ['smbpasswd', '-c', configurationPath(directory), '-s', '-a', NAS_USER],
    input: `${password}\n${password}\n`,
  };
}

function configurationPath(directory: string): string {
  return path.join(directory, 'smb.conf');
}

/** `force user`: files are root's, whoever the server's user is, as on most appliances. */
function configuration(directory: string, port: number): string {
  const state = path.join(directory, 'samba');
  const shared = (name: string, more: string): string =>
    `[${name}]
path = ${directory}/export/${name}
valid users = ${NAS_USER}
force user = root
${more}`;
  return `[global]
server role = standalone server
server min protocol = SMB3
smb ports = ${port}
interfaces = 127.0.0.1/8
bind interfaces only = yes
disable netbios = yes
load printers = no
printing = bsd
disable spoolss = yes
passdb backend = tdbsam
private dir = ${state}
lock directory = ${state}
state directory = ${state}
cache directory = ${state}
pid directory = ${state}
ncalrpc dir = ${state}/ncalrpc
${shared('backups', 'read only = no')}
${shared('readonly', 'read only = yes')}
`;
}

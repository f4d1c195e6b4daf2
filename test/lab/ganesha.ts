import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { startNas, type Nas, type NasProgram } from './nas.ts';

/**
 * An NFS 4.1 and 4.2 server: `/backups` and `/readonly`, with root as root, and `/squashed`, where root is nobody.
 *
 * @param leaseSeconds how long it keeps what a client has opened and hears nothing of; by default as long as Linux's does
 */
export function startGanesha(leaseSeconds = 90): Promise<Nas> {
  return startNas(ganesha(leaseSeconds));
}

const ganesha = (leaseSeconds: number): NasProgram => ({
  name: 'ganesha',
  configure: async (directory, port) => {
    await mkdir(path.join(directory, 'recovery'));
    await writeFile(path.join(directory, 'ganesha.conf'), configuration(directory, port, leaseSeconds));
  },
  argv: (directory) => [
    'ganesha.nfsd',
    ...['-F', '-f', path.join(directory, 'ganesha.conf')],
    ...['-L', 'STDOUT', '-p', path.join(directory, 'ganesha.pid')],
  ],
});

function configuration(directory: string, port: number, leaseSeconds: number): string {
  const exported = (id: number, folder: string, pseudo: string, more: string): string =>
    `EXPORT {
  Export_Id = ${id}; Path = "${directory}/export/${folder}"; Pseudo = "/${pseudo}";
  Protocols = 4; Transports = TCP; SecType = sys; ${more}
  FSAL { Name = VFS; }
}`;
  return `NFS_CORE_PARAM {
  Protocols = 4; NFS_Port = ${port}; Bind_addr = 127.0.0.1;
  Enable_UDP = false; Enable_NLM = false; Enable_RQUOTA = false;
}
NFS_KRB5 { Active_krb5 = false; }
NFSv4 {
  Minor_Versions = 1, 2; Only_Numeric_Owners = true;
  RecoveryBackend = fs; RecoveryRoot = "${directory}/recovery";
  Grace_Period = 5; Lease_Lifetime = ${leaseSeconds};
}
LOG { Default_Log_Level = EVENT; }
${exported(1, 'backups', 'backups', 'Access_Type = RW; Squash = No_Root_Squash;')}
${exported(2, 'readonly', 'readonly', 'Access_Type = RO; Squash = No_Root_Squash;')}
${exported(3, 'backups', 'squashed', 'Access_Type = RW; Squash = Root_Squash;')}
`;
}

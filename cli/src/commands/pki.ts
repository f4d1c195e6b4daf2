import { resolve } from 'node:path';
import { readCertificateSet, type CertificateSet } from '@holdfast/common/identity/certificates.ts';
import { grantUri, parseGrant, type Grant, type Role } from '@holdfast/common/identity/identity.ts';
import { InvalidArgumentError, Option, type Command } from 'commander';
import { usage } from '../command-error.ts';
import type { Context } from '../context.ts';
import { pairs } from '../format/table.ts';
import { jsonLine, safe } from '../format/text.ts';
import { collect } from '../option-values.ts';

const ROLES: readonly Role[] = ['viewer', 'operator', 'admin', 'controller', 'agent'];
const AUTHORITY_DAYS = 3_650;
const CERTIFICATE_DAYS = 90;
/** Longer than anybody plans for. */
const MAX_DAYS = 36_500;

/** Adds `pki` with `create`, `issue`, `renew` and `show`. */
export function addPki(program: Command, context: Context): void {
  const pki = program
    .command('pki')
    .description(
      'Certificates for controllers, agents and callers: an authority for development and for small sites. ' +
        'Any other that puts the same URIs into certificates is as good.',
    );
  addCreate(pki, context);
  addIssue(pki, context);
  addRenew(pki, context);
  addShow(pki, context);
}

function addCreate(parent: Command, { terminal }: Context): void {
  const command = parent
    .command('create')
    .description('Makes an authority: ca.crt, and ca.key, which stays where certificates are issued.')
    .argument('<directory>', 'where it shall lie; made when it is missing')
    .option('--name <name>', 'its common name', 'Holdfast')
    .option('--days <days>', 'how long it is good', parseDays, AUTHORITY_DAYS)
    .action(async (directory: string, options: { readonly name: string; readonly days: number }) => {
      const pki = await loadPki();
      const place = resolve(directory);
      await pki.createAuthority(place, options.name, pki.validFor(options.days));
      print(terminal, command, { directory: place }, [`The authority lies in ${safe(place)}.`]);
    });
}

/** On demand: hardly a command needs it, and it takes its time. */
const loadPki = () => import('@holdfast/common/pki/pki.ts');

interface IssueOptions {
  readonly ca: string;
  readonly role: Role;
  readonly zone?: readonly string[];
  readonly host?: string;
  readonly address?: readonly string[];
  readonly name?: string;
  readonly days: number;
}

function addIssue(parent: Command, context: Context): void {
  const command = parent
    .command('issue')
    .summary('issue a certificate')
    .description(
      'Issues a certificate with a new key: ca.crt, tls.crt and tls.key, as --tls-directory takes them. ' +
        'Without --zone, the role holds in every zone.',
    )
    .argument('<directory>', 'where it shall lie; made when it is missing')
    .requiredOption('--ca <directory>', 'the authority')
    .addOption(new Option('--role <role>', 'what its holder may be').choices(ROLES).makeOptionMandatory())
    .option('--zone <zone>', 'in this zone only; may be repeated', collect)
    .option('--host <host>', 'the host of an agent')
    .option('--address <address>', 'a name or IP address at which it serves; may be repeated', collect)
    .option('--name <name>', "its common name; that of the role, or the host's, when left out")
    .option('--days <days>', 'how long it is good', parseDays, CERTIFICATE_DAYS)
    .action(async (directory: string, options: IssueOptions) => {
      const grants = grantsOf(options);
      const addresses = options.address ?? [];
      if (addresses.length === 0 && (options.role === 'controller' || options.role === 'agent')) {
        throw usage(`Say with --address at which names or IP addresses the ${options.role} serves.`);
      }
      const pki = await loadPki();
      const place = resolve(directory);
      const commonName = options.name ?? options.host ?? options.role;
      const issue = { commonName, grants, addresses };
      await pki.issueCertificate(place, resolve(options.ca), issue, pki.validFor(options.days));
      await printSet(context, command, place);
    });
}

function addRenew(parent: Command, context: Context): void {
  const command = parent
    .command('renew')
    .description('Issues a certificate once more, with a new key. Services take it into use by themselves.')
    .argument('<directory>', 'where the certificate lies')
    .requiredOption('--ca <directory>', 'the authority')
    .option('--days <days>', 'how long it is good', parseDays, CERTIFICATE_DAYS)
    .action(async (directory: string, options: { readonly ca: string; readonly days: number }) => {
      const pki = await loadPki();
      const place = resolve(directory);
      await pki.renewCertificate(place, resolve(options.ca), pki.validFor(options.days));
      await printSet(context, command, place);
    });
}

function addShow(parent: Command, context: Context): void {
  const command = parent
    .command('show')
    .description('Shows whose a certificate is and until when it is good.')
    .argument('<directory>', 'where the certificate lies')
    .action((directory: string) => printSet(context, command, resolve(directory)));
}

async function printSet({ terminal }: Context, command: Command, directory: string): Promise<void> {
  const set = await readCertificateSet(directory);
  print(terminal, command, jsonOf(directory, set), page(directory, set));
}

function jsonOf(
  directory: string,
  { identity, notBefore, notAfter, authorityNotAfter }: CertificateSet,
): object {
  return {
    ...{ directory, name: identity.name, uris: identity.grants.map(grantUri) },
    ...{ notBefore, notAfter, authorityNotAfter },
  };
}

function page(directory: string, { identity, notAfter, authorityNotAfter }: CertificateSet): string[] {
  return pairs([
    ['Directory', directory],
    ['Identity', identity.name],
    ['Good until', notAfter.toISOString()],
    ['Authority good until', authorityNotAfter.toISOString()],
  ]);
}

function print(
  terminal: Context['terminal'],
  command: Command,
  object: unknown,
  lines: readonly string[],
): void {
  const json = command.optsWithGlobals<{ readonly json?: boolean }>().json === true;
  for (const line of json ? [jsonLine(object)] : lines) terminal.out.write(`${line}\n`);
}

function grantsOf({ role, zone: zones = [], host }: IssueOptions): Grant[] {
  if (role === 'agent' && (host === undefined || zones.length !== 1)) {
    throw usage('An agent has one --zone and one --host.');
  }
  if (role !== 'agent' && host !== undefined) throw usage('--host goes with --role agent.');
  const grants = (zones.length === 0 ? [undefined] : zones).map((zone) => ({ role, zone, host }));
  for (const grant of grants) {
    if (parseGrant(grantUri(grant)) === undefined)
      throw usage(`${safe(grantUri(grant))} has a name in it that zones and hosts cannot have.`);
  }
  return grants;
}

function parseDays(text: string): number {
  const days = Number(text);
  if (/^\d+$/.test(text) && days > 0 && days <= MAX_DAYS) return days;
  throw new InvalidArgumentError(`Must be a whole number of days from 1 to ${MAX_DAYS}.`);
}

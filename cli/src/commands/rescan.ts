import { correlated } from '@holdfast/common/client.ts';
import { fromServiceError, HoldfastError } from '@holdfast/common/errors.ts';
import {
  rescanOutcomeToJSON,
  RescanOutcome,
  RescanRepositoryResponse,
  type RescanFigures,
  type RescanFinding,
} from '@holdfast/proto/holdfast/v1/repository.ts';
import type { Command } from 'commander';
import { CommandError } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { jsonLine, safe } from '../format/text.ts';
import { unreachable, type Session } from '../session.ts';
import { isFromTransport } from '../transport.ts';

/** Adds `repository rescan`. */
export function addRescan(parent: Command, context: Context): void {
  const command = parent
    .command('rescan')
    .description(
      'Enters the backups that lie in a repository into the catalogue, for a controller that has lost it, and tells ' +
        'what else lies there and what is missing. Changes nothing on the repository.',
    )
    .argument('<repository>', 'the name of the repository')
    .option('--dry-run', 'only tell what would be entered')
    .action((name: string, { dryRun = false }: { readonly dryRun?: boolean }) =>
      withSession(context, command, async ({ session, terminal, json }) => {
        let last: RescanFigures | undefined;
        let wrong = 0;
        for await (const response of rescan(session, name, dryRun)) {
          const { message } = response;
          if (message?.$case === 'figures') last = message.value;
          if (message?.$case === 'finding' && isWrong(message.value)) wrong += 1;
          if (json) terminal.out.write(`${jsonLine(RescanRepositoryResponse.toJSON(response))}\n`);
          else if (message?.$case === 'finding') terminal.out.write(`${findingLine(message.value)}\n`);
        }
        if (last?.done !== true)
          throw new CommandError('CONTROLLER_UNREACHABLE', 'The answer ended early. Scan it again.');
        if (!json) terminal.out.write(`${sumLine(last, dryRun)}\n`);
        if (wrong === 0) return;
        const things = wrong === 1 ? 'One backup is' : `${wrong} backups are`;
        throw new HoldfastError(
          'BACKUP_DAMAGED',
          `${things} damaged, changed or missing. The reasons stand above.`,
        );
      }),
    );
}

async function* rescan(
  session: Session,
  name: string,
  dryRun: boolean,
): AsyncGenerator<RescanRepositoryResponse, void, undefined> {
  const metadata = correlated(session.correlationId);
  const stream = session.repositories.rescanRepository({ name, dryRun }, metadata);
  // One that is cancelled after its reader has gone says so, and nobody else listens.
  stream.on('error', () => undefined);
  try {
    yield* stream as AsyncIterable<RescanRepositoryResponse>;
  } catch (error) {
    throw isFromTransport(error) ? unreachable(session.address, error) : fromServiceError(error);
  } finally {
    stream.cancel();
  }
}

/** What says that a backup is not as it was. */
const WRONG: readonly RescanOutcome[] = [
  RescanOutcome.RESCAN_OUTCOME_DAMAGED,
  RescanOutcome.RESCAN_OUTCOME_DIFFERENT,
  RescanOutcome.RESCAN_OUTCOME_MISSING,
];

function isWrong({ outcome }: RescanFinding): boolean {
  return WRONG.includes(outcome);
}

function findingLine({ outcome, path, domainName, message, authentic }: RescanFinding): string {
  const word = rescanOutcomeToJSON(outcome).replace('RESCAN_OUTCOME_', '').toLowerCase();
  const parts = [
    word.padEnd(10),
    safe(path),
    domainName === '' ? '' : `(${safe(domainName)})`,
    authentic ? 'authentic' : '',
  ];
  const line = parts.filter((part) => part !== '').join('  ');
  return message === '' ? line : `${line}  ${safe(message)}`;
}

function sumLine({ folders, imported, known, others }: RescanFigures, dryRun: boolean): string {
  const what = dryRun ? 'would be entered' : 'entered';
  return `${folders} folders: ${imported} backups ${what}, ${known} known already, ${others} other things.`;
}

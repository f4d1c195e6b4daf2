import { fromStatus } from '@holdfast/common/errors.ts';
import {
  leftoverKindToJSON,
  leftoverStateToJSON,
  LeftoverState,
  ListLeftoversResponse,
  type Leftover,
  type LeftoverProblem,
} from '@holdfast/proto/holdfast/v1/leftover.ts';
import type { Command } from 'commander';
import { CommandError } from '../command-error.ts';
import { withSession, type Context } from '../context.ts';
import { table } from '../format/table.ts';
import { safe } from '../format/text.ts';
import { call } from '../session.ts';

const MINUTE = 60_000;
/** Longer than the controller waits for agents, so that its own words arrive. */
const LIST_DEADLINE_MS = 5 * MINUTE;
const REMOVE_DEADLINE_MS = 60 * MINUTE;

/** Adds `doctor`. */
export function addDoctor(program: Command, context: Context): void {
  const command = program
    .command('doctor')
    .description(
      'Lists what interrupted work has left on hosts and in repositories, and removes it when asked to.',
    )
    .option('--zone <zone>', 'only hosts and repositories of this zone')
    .option('--host <host>', 'only this host')
    .option('--repository <repository>', 'only this repository')
    .option('--remove', "remove what is Holdfast's own for certain and used by nobody")
    .action((options: DoctorOptions) =>
      withSession(context, command, async ({ session, print, terminal }) => {
        const { zone = '', host = '', repository = '', remove = false } = options;
        const { leftovers: client } = session;
        const method = remove ? client.removeLeftovers.bind(client) : client.listLeftovers.bind(client);
        const deadlineMs = remove ? REMOVE_DEADLINE_MS : LIST_DEADLINE_MS;
        const found = await call(session, method, { zone, host, repository }, deadlineMs);
        print(ListLeftoversResponse.toJSON(found), () => doctorPage(found));
        for (const problem of found.problems) terminal.err.write(`${problemLine(problem)}\n`);
        requireClean(found.leftovers);
        // The last, since what was found can be acted on meanwhile.
        const [first] = found.problems;
        if (first?.error !== undefined) throw fromStatus(first.error);
      }),
    );
}

interface DoctorOptions {
  readonly zone?: string;
  readonly host?: string;
  readonly repository?: string;
  readonly remove?: boolean;
}

/** A table of what was found. */
function doctorPage({ leftovers, problems }: ListLeftoversResponse): readonly string[] {
  if (leftovers.length === 0)
    return [
      problems.length === 0 ? 'Nothing is left over.' : 'Nothing is left over where it could be looked.',
    ];
  const rows = leftovers.map((each) => [
    placeOf(each),
    wordOf(leftoverKindToJSON(each.kind), 'LEFTOVER_KIND_'),
    wordOf(leftoverStateToJSON(each.state), 'LEFTOVER_STATE_'),
    each.name,
    each.reason,
  ]);
  const titles = ['PLACE', 'KIND', 'STATE', 'WHAT', 'WHY'];
  return table(
    titles.map((title) => ({ title })),
    rows,
  );
}

/** @throws CommandError LEFTOVERS when there is something that was not, or could not be, removed */
function requireClean(leftovers: readonly Leftover[]): void {
  const count = (state: LeftoverState): number => leftovers.filter((each) => each.state === state).length;
  const failed = count(LeftoverState.LEFTOVER_STATE_FAILED);
  const removable = count(LeftoverState.LEFTOVER_STATE_REMOVABLE);
  if (failed > 0)
    throw new CommandError('LEFTOVERS', `${things(failed)} could not be removed. The reasons stand above.`);
  if (removable > 0)
    throw new CommandError('LEFTOVERS', `${things(removable)} can be removed: holdfast doctor --remove`);
}

function things(count: number): string {
  return count === 1 ? 'One leftover' : `${count} leftovers`;
}

function placeOf({ host, repository }: Pick<Leftover, 'host' | 'repository'>): string {
  return repository === '' ? host : `repository ${repository}`;
}

function problemLine(problem: LeftoverProblem): string {
  const error = problem.error === undefined ? 'unknown' : fromStatus(problem.error).message;
  return `Not looked at: ${safe(placeOf(problem))}: ${safe(error)}`;
}

/** `LEFTOVER_KIND_LIBVIRT_JOB` as people write it: `libvirt-job`. */
function wordOf(name: string, prefix: string): string {
  return name.replace(prefix, '').toLowerCase().replaceAll('_', '-');
}

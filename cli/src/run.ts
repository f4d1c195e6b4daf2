import { HoldfastError } from '@holdfast/common/errors.ts';
import { CommanderError } from 'commander';
import { completeCompress } from './commands/backup.ts';
import { CommandError, usage } from './command-error.ts';
import { useColor, type Context } from './context.ts';
import { ExitCode, exitCodeOf } from './exit.ts';
import { createPaint } from './format/paint.ts';
import { jsonLine, safe } from './format/text.ts';
import { createProgram } from './program.ts';

/** Runs one command line (without the program's name) and tells how it went: the exit code. */
export async function run(argv: readonly string[], context: Context): Promise<ExitCode> {
  try {
    await createProgram(context).parseAsync(completeCompress(argv), { from: 'user' });
    return ExitCode.SUCCESS;
  } catch (thrown) {
    if (thrown instanceof CommanderError && isHelp(thrown, argv)) return ExitCode.SUCCESS;
    const error = thrown instanceof CommanderError ? fromCommander(thrown) : thrown;
    printError(error, argv, context);
    return exitCodeOf(error);
  }
}

/** One line on stderr, as JSON when JSON was asked for. */
function printError(error: unknown, argv: readonly string[], { terminal }: Context): void {
  const reason = error instanceof HoldfastError || error instanceof CommandError ? error.reason : 'INTERNAL';
  const message = error instanceof Error ? error.message : String(error);
  // The command line may be what is wrong, so its options are looked up without parsing it.
  if (argv.includes('--json')) {
    const metadata = error instanceof HoldfastError ? { metadata: error.metadata } : {};
    terminal.err.write(`${jsonLine({ error: { reason, message, ...metadata } })}\n`);
    return;
  }
  const paint = createPaint(
    terminal.err.isTerminal && useColor(terminal, { color: !argv.includes('--no-color') }),
  );
  terminal.err.write(`${paint.bad('holdfast:')} ${safe(message)} [${reason}]\n`);
}

function isHelp(error: CommanderError, argv: readonly string[]): boolean {
  // Without a command commander shows the help too, as an error; that is one.
  return error.exitCode === 0 || (error.code === 'commander.help' && argv.includes('help'));
}

function fromCommander({ code, message }: CommanderError): CommandError {
  if (code === 'commander.help') return usage('Name one of the commands above.');
  const text = message.replace(/^error: /, '');
  return usage(`${text.endsWith('.') ? text : `${text}.`} See holdfast --help.`);
}

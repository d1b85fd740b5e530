/** Runs the command line and returns its exit code. */
import { CommanderError } from 'commander';
import { EXIT, UsageError } from '../core/errors.ts';
import type { CliContext } from './context.ts';
import { makeProgram } from './program.ts';
import { reportError } from './report-error.ts';

/**
 * Runs the command line.
 * @param args without `node` and the script
 * @returns the exit code
 */
export async function run(args: readonly string[], context: CliContext): Promise<number> {
  let exitCode: number = EXIT.ok;
  const program = makeProgram(context, (code) => {
    exitCode = code;
  });
  const json = args.includes('--json');
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportError(context, error, json);
    if (error.exitCode === 0) return EXIT.ok;
    // No command at all: commander has written the help to stderr.
    if (error.code === 'commander.help') return EXIT.usage;
    const known = program.commands.map((command) => command.name());
    // Commander's own suggestion is beside ours.
    const [message = '', suggestion] = error.message
      .replace(/^error: /, '')
      .split(/\n\(Did you mean (.*)\?\)$/);
    const usage = new UsageError('USAGE', message, { hint: usageHint(args, known, suggestion) });
    return reportError(context, usage, json);
  }
}

/** Names the command whose help says more, or the one that was meant: `snapshot-revert` for `revert`. */
function usageHint(
  args: readonly string[],
  commands: readonly string[],
  suggestion: string | undefined,
): string {
  const words = args.filter((word) => !word.startsWith('-'));
  const given = words.find((word) => commands.includes(word));
  const similar = suggestion === undefined ? '' : `did you mean ${suggestion}? `;
  if (given !== undefined) return `${similar}xlsnap ${given} --help`;
  const [word = ''] = words;
  const meant = commands.find((name) => name === `snapshot-${word}`);
  return meant === undefined ? `${similar}xlsnap --help lists the commands` : `did you mean ${meant}?`;
}

/** What a file of this folder exports: a function that adds one command to the program, without loading its code. */
import type { CliContext } from '../context.ts';
import type { DocumentedCommand } from '../documented-command.ts';

/**
 * Adds one command to the program. The command's code, in `commands/`, is imported only when the command runs, so that
 * help, manual pages and completions load without it.
 * @param finish receives the exit code
 */
export type Define = (
  program: DocumentedCommand,
  context: CliContext,
  finish: (exitCode: number) => void,
) => void;

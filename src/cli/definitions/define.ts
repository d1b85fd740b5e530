import type { CliContext } from '../context.ts';
import type { DocumentedCommand } from '../documented-command.ts';

/**
 * Adds one command to the program. What the command runs is imported when it is called, so that help, manual page and
 * completions are made without it.
 * @param finish takes the exit code
 */
export type Define = (
  program: DocumentedCommand,
  context: CliContext,
  finish: (exitCode: number) => void,
) => void;

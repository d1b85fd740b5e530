/** Prints errors on stderr. */
import { describeError, EXIT, UsageError, XlsnapError } from '../core/errors.ts';
import type { CliContext } from './context.ts';
import { hasColour } from './progress.ts';
import { columnsOf, jsonLine, printable, wrapText } from './text.ts';

/**
 * Prints an error on stderr: as text, or with `json` as one object on one line.
 * @returns the exit code
 */
export function reportError(context: CliContext, error: unknown, json: boolean): number {
  const known = error instanceof XlsnapError ? error : undefined;
  const exitCode = known?.exitCode ?? EXIT.bug;
  const stack = exitCode === EXIT.bug ? stackOf(known?.cause ?? error) : undefined;
  if (json) {
    const fields = known?.toJSON() ?? {
      name: error instanceof Error ? error.name : typeof error,
      code: 'BUG',
      message: describeError(error),
      exit_code: exitCode,
    };
    const line = jsonLine('error', { ...fields, stack });
    context.stderr.write(`${line}\n`);
    return exitCode;
  }
  const interrupted = exitCode === EXIT.interrupted;
  const label = exitCode === EXIT.bug ? 'bug:' : interrupted ? 'interrupted' : 'error:';
  const message = known?.message ?? describeError(error);
  const lines = [interrupted ? interruptedLine(message) : `${label} ${message}`];
  if (known !== undefined) lines.push(...details(known));
  if (stack !== undefined) {
    lines.push(stack, 'Please report this, with the command and the text above.');
  }
  const text = wrapText(printable(lines.join('\n')), columnsOf(context.stderr));
  const command = known?.data['command'];
  // Not wrapped, so that it can be copied.
  const last = typeof command === 'string' ? `\n${printable(`    ${command}`)}` : '';
  const coloured = hasColour(context.stderr, context.env);
  // Whoever interrupted it knows: that is not a failure.
  const colour = interrupted ? '\x1b[33m' : '\x1b[31m';
  context.stderr.write(`${coloured ? `${colour}${label}\x1b[0m${text.slice(label.length)}` : text}${last}\n`);
  return exitCode;
}

/** `interrupted`, with what that means if the message says more. */
function interruptedLine(message: string): string {
  return message === 'interrupted' ? message : `interrupted: ${message}`;
}

function details(error: XlsnapError): string[] {
  const lines: string[] = [];
  const known = error.cause === undefined || error.exitCode === EXIT.interrupted;
  const cause = known ? '' : describeError(error.cause);
  if (cause !== '' && !error.message.includes(cause)) lines.push(`  because: ${cause}`);
  if (error.phase !== undefined) lines.push(`  in phase: ${error.phase}`);
  if (error.done.length > 0) lines.push(`  done: ${error.done.join('; ')}`);
  if (error.undone.length > 0) lines.push(`  undone: ${error.undone.join('; ')}`);
  for (const failure of error.undoFailures) lines.push(`  NOT UNDONE: ${failure}`);
  if (error.hint !== undefined) {
    lines.push(`  ${error instanceof UsageError ? 'hint' : 'next'}: ${error.hint}`);
  }
  return lines;
}

function stackOf(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : describeError(error);
}

/** What a check of an operation has found: every obstacle, thrown as one error. */
import { EXIT, PreflightError, XlsnapError } from '../core/errors.ts';
import { describeProblems, type Problem, toProblem } from '../core/problem.ts';

/**
 * Throws one error for all findings.
 * @throws {PreflightError} If there are any
 */
export function throwFindings(findings: readonly Problem[], domid: number | undefined): void {
  const [first] = findings;
  if (first === undefined) return;
  const many = findings.length > 1;
  const reasons = describeProblems(findings);
  const lines = reasons.map((reason) => `  - ${reason}`);
  throw new PreflightError(
    many ? 'PREFLIGHT' : first.code,
    many
      ? `this is not possible, for ${reasons.length === 1 ? 'one reason' : `${reasons.length} reasons`}:\n${lines.join('\n')}`
      : first.message,
    {
      phase: 'preflight',
      data: { findings },
      domid,
      hint: many ? undefined : first.hint,
    },
  );
}

/** Runs a check, and turns its typed error into a finding; other errors are thrown. */
export async function asFinding(findings: Problem[], check: () => Promise<void>): Promise<void> {
  try {
    await check();
  } catch (error) {
    if (!(error instanceof XlsnapError) || error.exitCode === EXIT.interrupted) throw error;
    findings.push(toProblem(error));
  }
}

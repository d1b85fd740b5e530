/** Lists the failed tests of a vitest run. */

/** The part of vitest's JSON report that is used. */
export interface Report {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly FileResult[];
}

interface FileResult {
  /** Path of the test file. */
  readonly name: string;
  readonly status: string;
  /** Why the file itself failed, for example because it could not be loaded. */
  readonly message: string;
  readonly assertionResults: readonly TestResult[];
}

interface TestResult {
  readonly fullName: string;
  readonly status: string;
  readonly failureMessages: readonly string[] | null;
}

/** Maximum number of lines of an error, before its stack. A program's own words are in the second line. */
const MOST_LINES = 3;
const MOST_CHARACTERS = 300;

/**
 * Returns a line for each failed test, with its full name and the beginning of its error, and a line for each
 * test file that failed without a failed test.
 * @param root the directory that the files' paths are relative to
 */
export function failureLines(report: Report, root: string): string[] {
  return report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = name.startsWith(`${root}/`) ? name.slice(root.length + 1) : name;
    const failed = assertionResults.filter((test) => test.status === 'failed');
    if (failed.length === 0) return status === 'failed' ? [`${file}: ${beginning(message)}`] : [];
    return failed.map(
      (test) => `${file} > ${test.fullName}: ${beginning(test.failureMessages?.[0] ?? 'no error reported')}`,
    );
  });
}

function beginning(message: string): string {
  const lines = message.split('\n').map((line) => line.trim());
  const stack = lines.findIndex((line) => line.startsWith('at '));
  return lines
    .slice(0, stack < 0 ? lines.length : stack)
    .filter((line) => line !== '')
    .slice(0, MOST_LINES)
    .join(' | ')
    .slice(0, MOST_CHARACTERS);
}

/** Reads vitest's report of a run: which tests failed, and which files took longest. */

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
  /** Milliseconds since 1970. */
  readonly startTime: number;
  readonly endTime: number;
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
    const file = relativeTo(root, name);
    const failed = assertionResults.filter((test) => test.status === 'failed');
    if (failed.length === 0) return status === 'failed' ? [`${file}: ${beginning(message)}`] : [];
    return failed.map(
      (test) => `${file} > ${test.fullName}: ${beginning(test.failureMessages?.[0] ?? 'no error reported')}`,
    );
  });
}

/**
 * Returns the test files that took longest, the longest first, such as `test/lab/pv.test.ts 85 s`.
 * @param root the directory that the files' paths are relative to
 * @param most how many
 */
export function slowestFiles(report: Report, root: string, most: number): string[] {
  return report.testResults
    .map(({ name, startTime, endTime }) => ({ file: relativeTo(root, name), ms: endTime - startTime }))
    .sort((a, b) => b.ms - a.ms)
    .slice(0, most)
    .map(({ file, ms }) => `${file} ${Math.round(ms / 1000)} s`);
}

function relativeTo(root: string, path: string): string {
  return path.startsWith(`${root}/`) ? path.slice(root.length + 1) : path;
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

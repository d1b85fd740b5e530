/** What vitest's JSON report says, as far as it is used. */
export interface Report {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly FileResult[];
}

interface FileResult {
  /** Path of the test file. */
  readonly name: string;
  readonly status: string;
  /** Why the file itself failed: it could not be loaded, say. */
  readonly message: string;
  readonly assertionResults: readonly TestResult[];
}

interface TestResult {
  readonly fullName: string;
  readonly status: string;
  readonly failureMessages: readonly string[] | null;
}

/** Lines of an error before its stack that are worth repeating; a program's own words stand in the second. */
const MOST_LINES = 3;
const MOST_CHARACTERS = 300;

/**
 * One line for each failed test, with its full name and the beginning of its error, and one for each test file that
 * failed without a failed test.
 * @param root the paths of the files are told from here
 */
export function failureLines(report: Report, root: string): string[] {
  return report.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const file = name.startsWith(`${root}/`) ? name.slice(root.length + 1) : name;
    const failed = assertionResults.filter((test) => test.status === 'failed');
    if (failed.length === 0) return status === 'failed' ? [`${file}: ${beginning(message)}`] : [];
    return failed.map(
      (test) => `${file} > ${test.fullName}: ${beginning(test.failureMessages?.[0] ?? 'no error told')}`,
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

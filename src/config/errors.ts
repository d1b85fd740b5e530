/** What can be wrong with a cfgfile, and the error that reports it. */
import { EXIT, XlsnapError } from '../core/errors.ts';
import type { Problem } from '../core/problem.ts';

/** Something that is wrong in a cfgfile. */
export interface ConfigFinding extends Problem {
  /** Counted from 1. Absent if the finding is about the whole file. */
  readonly line?: number;
  /** Counted in characters, from 1. */
  readonly column?: number;
  /** Two lines: the line at fault, and a caret below it. */
  readonly excerpt?: string;
}

/** A cfgfile cannot be read, or does not say what it must. `code` is that of the first finding. */
export class ConfigError extends XlsnapError {
  readonly exitCode = EXIT.config;
  /** All findings, in the order of the file; at least one. */
  readonly findings: readonly ConfigFinding[];

  /**
   * Makes the error.
   * @param source name of the file, for the message
   * @param options `more`: number of findings that were left out
   */
  constructor(
    source: string,
    findings: readonly [ConfigFinding, ...ConfigFinding[]],
    options: { more?: number; cause?: unknown } = {},
  ) {
    const { more = 0, cause } = options;
    const [first] = findings;
    const single = findings.length === 1 && more === 0;
    const parts = findings.map((finding) => describe(source, finding, !single));
    if (more > 0) parts.push(`and ${more} more`);
    super(first.code, parts.join('\n'), {
      hint: single ? first.hint : undefined,
      cause,
      data: { file: source, findings },
    });
    this.findings = findings;
  }
}

function describe(source: string, finding: ConfigFinding, withHint: boolean): string {
  const at = finding.line === undefined ? source : `${source}:${finding.line}:${finding.column}`;
  const hint = withHint && finding.hint !== undefined ? ` (${finding.hint})` : '';
  const excerpt = finding.excerpt === undefined ? '' : `\n${finding.excerpt}`;
  return `${at}: ${finding.message}${hint}${excerpt}`;
}

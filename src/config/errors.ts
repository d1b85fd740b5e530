import { EXIT, XlsnapError } from '../core/errors.ts';
import type { Problem } from '../core/problem.ts';

/** One thing that is wrong in a cfgfile. */
export interface ConfigFinding extends Problem {
  /** From 1. Absent when the finding is about the file as a whole. */
  readonly line?: number;
  /** In characters, from 1. */
  readonly column?: number;
  /** The line at fault and a caret below it, two lines. */
  readonly excerpt?: string;
}

/** A cfgfile that cannot be read or does not say what it must. `code` is that of the first finding. */
export class ConfigError extends XlsnapError {
  readonly exitCode = EXIT.config;
  /** All that was found, in the order of the file; at least one. */
  readonly findings: readonly ConfigFinding[];

  /**
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

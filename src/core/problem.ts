/** Something that prevents an operation, with what would help. Plain data. */
export interface Problem {
  /** Stable, upper case, for programs. */
  readonly code: string;
  readonly message: string;
  readonly hint?: string | undefined;
}

/** Returns the part of an error that a problem has too. */
export function toProblem({ code, message, hint }: Problem): Problem {
  return { code, message, hint };
}

/** Describes a problem in one line. */
export function describeProblem({ message, hint }: Pick<Problem, 'message' | 'hint'>): string {
  return hint === undefined ? message : `${message} (${hint})`;
}

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

/** Describes several problems: those with the same code and hint in one text, with the hint once. */
export function describeProblems(problems: readonly Problem[]): readonly string[] {
  const groups = new Map<string, Problem>();
  for (const one of problems) {
    const key = `${one.code} ${one.hint}`;
    const before = groups.get(key);
    groups.set(key, before === undefined ? one : { ...one, message: `${before.message}; ${one.message}` });
  }
  return [...groups.values()].map(describeProblem);
}

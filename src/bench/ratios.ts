/** Compares the runs of two paths. */

/** What the ratios of a run are made of. */
export interface RatioRun {
  readonly path: string;
  readonly round: number;
  readonly wallSeconds: number;
  readonly downtimeSeconds?: number | undefined;
  readonly stop?: { readonly seconds: number } | undefined;
}

/** Divides each run of a path that counts by the run of another path in the same round. */
export function pairedRatios<Run extends RatioRun>(
  runs: readonly Run[],
  path: string,
  baseline: string | undefined,
  value: (run: Run) => number | undefined,
): readonly number[] {
  return runs.flatMap((run) => {
    if (run.path !== path || run.round === 0) return [];
    const other = runs.find((one) => one.path === baseline && one.round === run.round);
    const [own, against] = [value(run), other === undefined ? undefined : value(other)];
    return own === undefined || against === undefined || against === 0 ? [] : [own / against];
  });
}

/** How long the guest was stopped. xlsnap's own figure is more precise than what can be seen from outside. */
export function stoppedSeconds({ downtimeSeconds, stop }: RatioRun): number | undefined {
  return downtimeSeconds ?? stop?.seconds;
}

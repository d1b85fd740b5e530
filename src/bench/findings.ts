/** What a bench shows in words: how the paths compare, and why the figures may not hold. */
import type { BenchResult, PathResult } from './types.ts';

/** With fewer rounds, chance alone often puts all of them on one side. */
const MIN_ROUNDS = 5;

/** Reasons to doubt the figures; none if there are none. */
export function benchCautions({ machine, rounds }: BenchResult): readonly string[] {
  const { cpus, loadBefore, loadAfter } = machine;
  const load = Math.max(loadBefore, loadAfter);
  return [
    ...(load > cpus
      ? [
          `dom0 was busy: a load of ${load.toFixed(1)} on ${cpus} ${cpus === 1 ? 'processor' : 'processors'}, so the figures vary`,
        ]
      : []),
    ...(rounds < MIN_ROUNDS
      ? [`${rounds === 1 ? 'one round says' : `${rounds} rounds say`} little: --rounds ${MIN_ROUNDS} or more`]
      : []),
  ];
}

/** One sentence for each path that is compared with another. */
export function benchFindings({ paths }: BenchResult): readonly string[] {
  return paths.flatMap((path) => {
    const baseline = paths.find(({ name }) => name === path.baseline);
    const { wallRatio } = path;
    if (baseline === undefined || baseline === path || wallRatio === undefined) return [];
    const same = wallRatio.min <= 1 && wallRatio.max >= 1;
    const took =
      same || wallRatio.count < MIN_ROUNDS
        ? `no difference from ${baseline.name} beyond noise (${range(wallRatio)} of its time)`
        : `${wallRatio.max < 1 ? 'faster' : 'slower'} than ${baseline.name} in every round, with ${ratio(wallRatio.median)} of its time`;
    const stops = stopsOf(path, baseline);
    return [`${path.name}: ${took}${stops === undefined ? '' : `; ${stops}`}.`];
  });
}

function stopsOf(path: PathResult, baseline: PathResult): string | undefined {
  const own = path.downtimeSeconds ?? path.stopSeconds;
  const other = baseline.downtimeSeconds ?? baseline.stopSeconds;
  if (own === undefined || other === undefined) return undefined;
  const overlap = own.min <= other.max && other.min <= own.max;
  return `the guest was stopped for ${milliseconds(own.median)} instead of ${milliseconds(other.median)}${overlap ? ', which overlap' : ''}`;
}

function range({ min, max }: { readonly min: number; readonly max: number }): string {
  return min === max ? ratio(min) : `${ratio(min)} to ${ratio(max)}`;
}

function ratio(value: number): string {
  return value.toFixed(2);
}

function milliseconds(seconds: number): string {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}

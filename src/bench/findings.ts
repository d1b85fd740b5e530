/** What a bench shows in words: how the paths compare, and why the figures may not hold. */
import type { RatioChange } from './earlier.ts';
import { CONFIDENCE, type Interval, MIN_FOR_INTERVAL, type Summary } from './statistics.ts';
import type { BenchResult, PathResult } from './types.ts';

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
    ...(rounds < MIN_FOR_INTERVAL
      ? [
          `${rounds === 1 ? 'one round is' : `${rounds} rounds are`} too few for a ${percent(CONFIDENCE)} interval: --rounds ${MIN_FOR_INTERVAL} or more`,
        ]
      : []),
  ];
}

/** One sentence for each path that is compared with another. */
export function pathFindings({ paths }: BenchResult): readonly string[] {
  return paths.flatMap((path) => {
    const baseline = paths.find(({ name }) => name === path.baseline);
    if (baseline === undefined || baseline === path || path.wallRatio === undefined) return [];
    const facts = [tookText(path.wallRatio, baseline.name), stopsText(path, baseline), guestText(path)];
    return [`${path.name}: ${facts.filter((fact) => fact !== undefined).join('; ')}.`];
  });
}

function tookText(wallRatio: Summary, baseline: string): string {
  const { interval } = wallRatio;
  const took = `${ratio(wallRatio.median)} of its time`;
  if (interval === undefined) return `too few rounds to compare with ${baseline} (${took})`;
  const figures = `${took}, ${intervalText(interval)}`;
  const side = sideOf(interval);
  if (side === 'same') return `no difference from ${baseline} beyond noise (${figures})`;
  return `${side === 'below' ? 'faster' : 'slower'} than ${baseline} (${figures})`;
}

function stopsText({ stopRatio, ...path }: PathResult, baseline: PathResult): string | undefined {
  const own = path.downtimeSeconds ?? path.stopSeconds;
  const other = baseline.downtimeSeconds ?? baseline.stopSeconds;
  if (own === undefined || other === undefined) return undefined;
  const interval = stopRatio?.interval;
  const same = interval !== undefined && sideOf(interval) === 'same';
  return `the guest was stopped for ${milliseconds(own.median)} instead of ${milliseconds(other.median)}${same ? ', no difference beyond noise' : ''}`;
}

/** What the guest did while it was copied. */
function guestText({ dirtyPagesPerSecond, trackedPages }: PathResult): string | undefined {
  if (trackedPages !== undefined)
    return `it had written ${whole(trackedPages.median)} pages since the earlier snapshot`;
  if (dirtyPagesPerSecond === undefined) return undefined;
  return `it wrote to ${whole(dirtyPagesPerSecond.median)} pages/s in the meantime`;
}

/** How the ratios differ from those of an earlier bench. */
export function earlierFindings({ earlier }: BenchResult): readonly string[] {
  if (earlier === undefined) return [];
  const { started, version, differences, paths } = earlier;
  const then = `xlsnap ${version} on ${started.slice(0, 16).replace('T', ' ')} UTC`;
  if (paths.length === 0) return [`Nothing to compare with ${then}: no path has a ratio to xl save in both.`];
  return [
    `Compared with ${then}, in ratios to xl save:`,
    ...differences.map((text) => `Other conditions then: ${text}.`),
    ...paths.map(({ name, wall, stop }) => {
      const texts = [
        wall === undefined ? undefined : `time ${changeText(wall)}`,
        stop === undefined ? undefined : `stop ${changeText(stop)}`,
      ];
      return `${name}: ${texts.filter((text) => text !== undefined).join('; ')}.`;
    }),
  ];
}

/** What each verdict says about a ratio. */
export const VERDICTS = {
  lower: 'lower',
  higher: 'higher',
  no_difference: 'no difference beyond noise',
  too_few_rounds: 'too few rounds to tell',
} as const;

function changeText({ before, after, verdict }: RatioChange): string {
  return `${ratio(after.median)}, was ${ratio(before.median)} (${VERDICTS[verdict]})`;
}

function sideOf({ lower, upper }: Interval): 'below' | 'same' | 'above' {
  if (upper < 1) return 'below';
  return lower > 1 ? 'above' : 'same';
}

/** Formats an interval of ratios: `96 % interval 0.50 to 0.70`. */
function intervalText({ lower, upper, confidence }: Interval): string {
  return `${percent(confidence)} interval ${ratio(lower)} to ${ratio(upper)}`;
}

/** A share in percent, rounded down: an interval must not claim too much. */
function percent(part: number): string {
  return `${Math.floor(part * 100)} %`;
}

/** Formats a ratio: `1.24`, `0.034`. */
export function ratio(value: number): string {
  return value < 0.095 ? Number(value.toPrecision(2)).toString() : value.toFixed(2);
}

function whole(value: number): string {
  return String(Math.round(value));
}

function milliseconds(seconds: number): string {
  return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(2)} s`;
}

/** Summarises measurements. */

/** The level that an interval reaches at least. */
export const CONFIDENCE = 0.95;
/** With fewer values, no interval for their median reaches that level. */
export const MIN_FOR_INTERVAL = 6;
/** With fewer values, the 95th percentile is the largest of them. */
const MIN_FOR_P95 = 20;

/** Between which two values the true median is. */
export interface Interval {
  readonly lower: number;
  readonly upper: number;
  /** The probability of an interval made in this way to hold the median: at least `CONFIDENCE`. */
  readonly confidence: number;
}

/** Describes a list of measurements, in their unit. */
export interface Summary {
  readonly count: number;
  readonly min: number;
  readonly lowerQuartile: number;
  readonly median: number;
  readonly upperQuartile: number;
  readonly max: number;
  /** The 95th percentile by nearest rank; absent for fewer than 20 values. */
  readonly p95?: number;
  /** For the median; absent for fewer than 6 values. */
  readonly interval?: Interval;
}

/**
 * Summarises measurements; `undefined` if there are none. Quartiles are interpolated linearly between
 * neighbours, as R, NumPy and spreadsheets do by default.
 */
export function summarise(values: readonly number[]): Summary | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  const at = (part: number): number => {
    const place = part * (sorted.length - 1);
    const below = sorted[Math.floor(place)] ?? Number.NaN;
    const above = sorted[Math.ceil(place)] ?? Number.NaN;
    return below + (above - below) * (place - Math.floor(place));
  };
  if (sorted.length === 0) return undefined;
  const p95 = sorted.length < MIN_FOR_P95 ? undefined : sorted[Math.ceil(0.95 * sorted.length) - 1];
  const interval = medianInterval(sorted);
  return {
    count: sorted.length,
    min: at(0),
    lowerQuartile: at(0.25),
    median: at(0.5),
    upperQuartile: at(0.75),
    max: at(1),
    ...(p95 === undefined ? {} : { p95 }),
    ...(interval === undefined ? {} : { interval }),
  };
}

/**
 * Returns the interval that the sign test gives for the median: from the k-th smallest to the k-th largest value, with the largest k
 * that reaches the level. It assumes nothing of how the values are distributed, only that they are independent (W. J. Conover,
 * Practical Nonparametric Statistics, 3.2).
 * @param sorted in ascending order
 */
function medianInterval(sorted: readonly number[]): Interval | undefined {
  const count = sorted.length;
  // How likely it is that fewer than `k` of the values are below the median: a coin that is tossed `count` times.
  let below = 0;
  let exactly = 0.5 ** count;
  let found: Interval | undefined;
  for (let k = 1; 2 * k <= count; k++) {
    below += exactly;
    exactly *= (count - k + 1) / k;
    const confidence = 1 - 2 * below;
    if (confidence < CONFIDENCE) break;
    found = { lower: sorted[k - 1] ?? Number.NaN, upper: sorted[count - k] ?? Number.NaN, confidence };
  }
  return found;
}

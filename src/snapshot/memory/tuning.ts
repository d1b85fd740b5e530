/** Options for measuring ways to copy memory. */
import { UsageError } from '../../core/errors.ts';
import type { Tuning } from '../api.ts';

/** Most records under way at once: more than there are threads to do the work. */
const MAX_IN_FLIGHT = 64;

/**
 * Reads the words of a tuning: `batch=510`, `in-flight=1`, `no-sparse`, `no-checksums`, `direct`, `no-direct`.
 * @throws {UsageError} If a word is unknown (`TUNING`)
 */
export function parseTuning(words: readonly string[]): Tuning {
  const tuning: { -readonly [Key in keyof Tuning]: Tuning[Key] } = {};
  for (const word of words) {
    const [, inFlight] = /^in-flight=([1-9][0-9]?)$/.exec(word) ?? [];
    if (word === 'no-sparse') tuning.sparse = false;
    else if (word === 'no-checksums') tuning.checksums = false;
    else if (word === 'direct') tuning.direct = true;
    else if (word === 'no-direct') tuning.direct = false;
    else if (word === 'batch=510') tuning.batchPages = 510;
    else if (word === 'batch=1022') tuning.batchPages = 1022;
    else if (inFlight !== undefined && Number(inFlight) <= MAX_IN_FLIGHT) tuning.inFlight = Number(inFlight);
    else {
      throw new UsageError('TUNING', `"${word}" is not a tuning option`, {
        hint: `the options are batch=510, batch=1022 (pages), in-flight=N (at most ${MAX_IN_FLIGHT}), no-sparse, no-checksums, direct and no-direct`,
      });
    }
  }
  return tuning;
}

/** The words that `parseTuning` reads. */
export function tuningWords({ batchPages, inFlight, sparse, checksums, direct }: Tuning): readonly string[] {
  return [
    ...(batchPages === undefined ? [] : [`batch=${batchPages}`]),
    ...(inFlight === undefined ? [] : [`in-flight=${inFlight}`]),
    ...(sparse === false ? ['no-sparse'] : []),
    ...(checksums === false ? ['no-checksums'] : []),
    ...(direct === undefined ? [] : [direct ? 'direct' : 'no-direct']),
  ];
}

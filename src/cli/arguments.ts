/** Readers of arguments, for commander. */
import { InvalidArgumentError } from 'commander';
import { UsageError } from '../core/errors.ts';
import { parseRiskNames, type RiskName } from '../snapshot/risks.ts';

/** The longest time-out, a week: a timer of Node holds 24 days. */
const MAX_TIMEOUT_SECONDS = 7 * 24 * 3600;

export function seconds(text: string): number {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || value === 0 || value > MAX_TIMEOUT_SECONDS) {
    throw new InvalidArgumentError(`Expected seconds, more than 0 and at most ${MAX_TIMEOUT_SECONDS}.`);
  }
  return value;
}

/** `300ms` or `2s`. A number alone would be read as seconds by some, since other options take those. */
export function milliseconds(text: string): number {
  const [, number, unit] = /^([0-9]+(?:\.[0-9]+)?)(ms|s)$/.exec(text) ?? [];
  const value = Number(number) * (unit === 's' ? 1000 : 1);
  if (!(value <= MAX_TIMEOUT_SECONDS * 1000)) {
    throw new InvalidArgumentError('Expected a time with its unit, such as 300ms or 2s.');
  }
  return value;
}

/** Makes a reader of whole numbers from 1 to `most`. */
export function count(most: number): (text: string) => number {
  return (text) => {
    if (!/^[1-9][0-9]{0,5}$/.test(text) || Number(text) > most) {
      throw new InvalidArgumentError(`Expected a number from 1 to ${most}.`);
    }
    return Number(text);
  };
}

/** Names of risks, `config-changed,base-written`; an option that is given again adds to what it had. */
export function risks(text: string, former: readonly RiskName[] = []): readonly RiskName[] {
  try {
    return [...new Set([...former, ...parseRiskNames([text])])];
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    throw new InvalidArgumentError(`${error.message}; ${error.hint}.`);
  }
}

/** An option that may be given several times. */
export function several(text: string, former: readonly string[] = []): readonly string[] {
  return [...former, notEmpty(text)];
}

export function notEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('Must not be empty.');
  return text;
}

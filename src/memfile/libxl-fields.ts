/** Reads fields of libxl's JSON, whatever is in it. */
import { isRecord } from '../core/guards.ts';

/** Returns the value at a path of keys; `undefined` if there is none. */
export function fieldOf(value: unknown, ...keys: readonly string[]): unknown {
  return keys.reduce<unknown>((at, key) => (isRecord(at) ? at[key] : undefined), value);
}

/** Returns the value if it is a non-empty string. */
export function textOf(value: unknown, ...keys: readonly string[]): string | undefined {
  const found = fieldOf(value, ...keys);
  return typeof found === 'string' && found !== '' ? found : undefined;
}

/** Returns the value if it is a finite number. */
export function numberOf(value: unknown, ...keys: readonly string[]): number | undefined {
  const found = fieldOf(value, ...keys);
  return typeof found === 'number' && Number.isSafeInteger(found) ? found : undefined;
}

/** Returns the value if it is a list, with only those entries that are objects. */
export function recordsOf(
  value: unknown,
  ...keys: readonly string[]
): readonly Readonly<Record<string, unknown>>[] {
  const found = fieldOf(value, ...keys);
  return Array.isArray(found) ? found.filter(isRecord) : [];
}

/**
 * Returns a flag's value. libxl prints its `defbool` as a string and its `bool` as JSON's, and leaves
 * defaults out.
 */
export function flagOf(value: unknown, ...keys: readonly string[]): boolean | undefined {
  const found = fieldOf(value, ...keys);
  if (found === true || found === 'True') return true;
  if (found === false || found === 'False') return false;
  return undefined;
}

/** Returns libxl's word for the type of guest: `pv`, `pvh`, `hvm`. */
export function domainType(config: unknown): string | undefined {
  return textOf(config, 'c_info', 'type') ?? textOf(config, 'b_info', 'type');
}

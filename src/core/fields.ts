/** Reads the fields of an object in JSON that came from outside, and says what is wrong with them. */
import { isRecord } from './guards.ts';

export class Fields {
  readonly #value: Readonly<Record<string, unknown>>;
  readonly #fail: (problem: string) => Error;
  readonly #at: string;

  /**
   * @param fail makes the error to throw for a problem such as `xen.major is not a count`
   * @param at where the object is in another one, such as `disks[0]`
   * @throws what `fail` makes, if `value` is not an object
   */
  constructor(value: unknown, fail: (problem: string) => Error, at = '') {
    if (!isRecord(value)) throw fail(`${at} is not an object`);
    this.#value = value;
    this.#fail = fail;
    this.#at = at;
  }

  /** Returns a field whatever it is; `undefined` if there is none. */
  raw(key: string): unknown {
    return this.#value[key];
  }

  text(key: string): string {
    const value = this.#value[key];
    if (typeof value === 'string') return value;
    throw this.error(key, 'is not a string');
  }

  number(key: string): number {
    const value = this.#value[key];
    if (typeof value === 'number' && Number.isFinite(value)) return value;
    throw this.error(key, 'is not a number');
  }

  /** Reads a whole number that is not negative. */
  count(key: string): number {
    const value = this.number(key);
    if (Number.isSafeInteger(value) && value >= 0) return value;
    throw this.error(key, 'is not a count');
  }

  oneOf<Choice extends string>(key: string, choices: readonly Choice[]): Choice {
    const found = choices.find((choice) => choice === this.#value[key]);
    if (found !== undefined) return found;
    throw this.error(key, `is not one of ${choices.join(', ')}`);
  }

  /** Reads an object. */
  fields(key: string): Fields {
    return new Fields(this.#value[key], this.#fail, this.#path(key));
  }

  /** Reads a list of objects. */
  list(key: string): readonly Fields[] {
    return this.#list(key).map((item, i) => new Fields(item, this.#fail, `${this.#path(key)}[${i}]`));
  }

  /** Reads a list of strings. */
  texts(key: string): readonly string[] {
    return this.#list(key).map((item, i) => {
      if (typeof item === 'string') return item;
      throw this.error(`${key}[${i}]`, 'is not a string');
    });
  }

  /** Reads a field with `read`, if there is one. */
  optional<T>(key: string, read: (key: string) => T): T | undefined {
    return this.#value[key] === undefined ? undefined : read(key);
  }

  /** Makes the error to throw for a field. */
  error(key: string, problem: string): Error {
    return this.#fail(`${this.#path(key)} ${problem}`);
  }

  #list(key: string): readonly unknown[] {
    const value = this.#value[key];
    if (Array.isArray(value)) return value;
    throw this.error(key, 'is not a list');
  }

  #path(key: string): string {
    return this.#at === '' ? key : `${this.#at}.${key}`;
  }
}

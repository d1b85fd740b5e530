/** Computes XXH3 (64 bits, seed 0) piece by piece, by libxxhash. */
import { EnvironmentError } from '../core/errors.ts';
import { XXHASH } from './declarations.ts';
import { bindIfInstalled, loadKoffi, type NativeFunction } from './native.ts';

type Functions = Readonly<Record<keyof (typeof XXHASH)['functions'], NativeFunction>>;

/** One sum after the other, in this thread: half a megabyte takes less time than handing it to another. */
export class NativeXxh3 implements Disposable {
  readonly #functions: Functions;
  #state: number | bigint;

  private constructor(functions: Functions) {
    this.#functions = functions;
    this.#state = functions.XXH3_createState.callHere().value;
    if (Number(this.#state) === 0) throw new EnvironmentError('XXHASH', 'libxxhash is out of memory');
    this.#reset();
  }

  /** Returns `undefined` if libxxhash is not installed. */
  static async make(): Promise<NativeXxh3 | undefined> {
    const functions = bindIfInstalled(await loadKoffi(), XXHASH);
    return functions && new NativeXxh3(functions);
  }

  /** Adds bytes that follow. */
  update(bytes: Uint8Array): void {
    this.#functions.XXH3_64bits_update.callHere(this.#open(), bytes, bytes.length);
  }

  /** Returns the sum, 16 hexadecimal digits, and begins the next one. */
  take(): string {
    const { value } = this.#functions.XXH3_64bits_digest.callHere(this.#open());
    this.#reset();
    return BigInt(value).toString(16).padStart(16, '0');
  }

  [Symbol.dispose](): void {
    if (this.#state === 0n) return;
    this.#functions.XXH3_freeState.callHere(this.#state);
    this.#state = 0n;
  }

  #reset(): void {
    this.#functions.XXH3_64bits_reset.callHere(this.#open());
  }

  /** The C library would crash without a state. */
  #open(): number | bigint {
    if (this.#state === 0n) throw new Error('this sum is closed');
    return this.#state;
  }
}

/** Checksums of what has been written to a file, as far as it is still there. */
import { type FileRange, STRETCH } from '../../memfile/checksums.ts';

/** Sums of stretches that lie one behind the other, `STRETCH` bytes apart. */
export class WrittenSums {
  readonly #sums = new Map<number, { readonly to: number; sum?: string | undefined }>();
  /** Offset of the first stretch that was noted. */
  #base: number | undefined;

  /**
   * Notes a stretch that is being written. One that is not in line with the first is left out: it is read again.
   * @returns what notes its sum, once that is known, unless something else has been written there by then
   */
  begin({ from, to }: FileRange): (sum: string) => void {
    this.#base ??= from;
    const at = this.#indexOf(from);
    if (this.#base + at * STRETCH !== from || to - from > STRETCH) return () => {};
    const noted: { readonly to: number; sum?: string } = { to };
    this.#sums.set(at, noted);
    return (sum) => {
      noted.sum = sum;
    };
  }

  /** Forgets what has been written to since. */
  forget({ from, to }: FileRange): void {
    if (this.#sums.size === 0) return;
    const last = this.#indexOf(to - 1);
    for (let at = this.#indexOf(from); at <= last; at++) this.#sums.delete(at);
  }

  of({ from, to }: FileRange): string | undefined {
    if (this.#base === undefined || (from - this.#base) % STRETCH !== 0) return undefined;
    const noted = this.#sums.get(this.#indexOf(from));
    return noted?.to === to ? noted.sum : undefined;
  }

  #indexOf(offset: number): number {
    return Math.floor((offset - (this.#base ?? 0)) / STRETCH);
  }
}

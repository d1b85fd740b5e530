/** Knows the empty parts of a guest's p2m from before its suspend, so that they need not be asked for while it stands still. */
import { DomainError, throwIfAborted } from '../../core/errors.ts';
import { PAGE_TYPE } from '../../savefmt/index.ts';
import type { Guest } from '../ports.ts';
import { isNothing, NOTHING, type PageTypes, TYPE_CHUNK } from './each-page.ts';

/**
 * The types of a suspended guest's pages. The p2m of a small guest reaches to 4 GiB and is mostly empty, and Xen takes as
 * long for its empty parts as for pages that exist.
 *
 * A running guest may get a page where nothing was. So the pages that are found when it stands still are counted: what Xen says that
 * the guest has, less these, must be what it was before (the rest are pages without a pfn, such as those that it shares with QEMU),
 * else all is asked for. The count does not show a page that moved during the survey; `check` finds that once the guest runs
 * again.
 */
export class PageSurvey implements PageTypes {
  readonly #guest: Guest;
  readonly #count: () => Promise<number>;
  /** Numbers of the chunks where nothing was. */
  readonly #empty = new Set<number>();
  /** Pages that the guest has, less those with a pfn. */
  #elsewhere = 0;
  readonly #types = new Map<number, Uint8Array>();

  private constructor(guest: Guest, count: () => Promise<number>) {
    this.#guest = guest;
    this.#count = count;
  }

  /**
   * Surveys a running guest.
   * @returns undefined for one whose p2m is not mostly empty: it would take longer than it spares
   * @throws {InterruptedError} If the signal is aborted; also what methods of `Guest` throw
   */
  static async of(guest: Guest, signal: AbortSignal | undefined): Promise<PageSurvey | undefined> {
    const count = guest.pageCount?.bind(guest);
    if (count === undefined) return undefined;
    const survey = new PageSurvey(guest, count);
    const { p2mSize } = guest;
    // First: what comes behind a place that was looked at is then missing from the count.
    const all = await count();
    if (all > p2mSize / 2) return undefined;
    let elsewhere = all;
    for (let chunk = 0; chunk * TYPE_CHUNK < p2mSize; chunk++) {
      const pages = populated(await survey.#ask(chunk, signal));
      elsewhere -= pages;
      // The last one may grow.
      if (pages === 0 && (chunk + 1) * TYPE_CHUNK <= p2mSize) survey.#empty.add(chunk);
    }
    survey.#elsewhere = elsewhere;
    return survey;
  }

  get p2mSize(): number {
    return this.#guest.p2mSize;
  }

  /** Asks for the types of the suspended guest's pages. */
  async settle(signal: AbortSignal | undefined): Promise<void> {
    let elsewhere = await this.#count();
    const look = async (chunk: number): Promise<void> => {
      const types = await this.#ask(chunk, signal);
      const pages = populated(types);
      if (pages === 0) return;
      elsewhere -= pages;
      this.#types.set(chunk, types);
    };
    for (let chunk = 0; chunk * TYPE_CHUNK < this.p2mSize; chunk++) {
      if (!this.#empty.has(chunk)) await look(chunk);
    }
    if (elsewhere === this.#elsewhere) return;
    for (const chunk of this.#empty) await look(chunk);
    this.#empty.clear();
  }

  /** What `settle` has found. `first` is a multiple of `TYPE_CHUNK`. */
  async pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    return (this.#types.get(first / TYPE_CHUNK) ?? NOTHING).subarray(0, count);
  }

  /**
   * Makes sure that nothing is where `settle` did not look. The guest runs again.
   * @throws {DomainError} P2M_RESIZED if something is; also what `of` throws
   */
  async check(signal: AbortSignal | undefined): Promise<void> {
    for (const chunk of this.#empty) {
      const types = await this.#ask(chunk, signal);
      if (populated(types) === 0) continue;
      const pfn = chunk * TYPE_CHUNK + types.findIndex((type) => type !== PAGE_TYPE.xtab);
      throw new DomainError('P2M_RESIZED', `page ${pfn} has come to the guest since the snapshot began`, {
        hint: 'try again',
      });
    }
  }

  async #ask(chunk: number, signal: AbortSignal | undefined): Promise<Uint8Array> {
    throwIfAborted(signal);
    const first = chunk * TYPE_CHUNK;
    return await this.#guest.pageTypesFrom(first, Math.min(TYPE_CHUNK, this.p2mSize - first));
  }
}

/** How many pages there are. */
function populated(types: Uint8Array): number {
  if (isNothing(types)) return 0;
  let pages = 0;
  for (const type of types) if (type !== PAGE_TYPE.xtab) pages++;
  return pages;
}

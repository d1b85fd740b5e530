/** Reports the progress of copying memory. */

import { PAGE_SIZE } from '../../core/brand.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Reporter } from '../../core/reporter.ts';

const INTERVAL_MS = 100;

/** Counts the pages of one pass over memory, and reports how far it is, not too often. */
export class CopyProgress {
  copied = 0;
  readonly #reporter: Reporter;
  readonly #total: number;
  readonly #round: number | undefined;
  readonly #live: boolean;
  readonly #start = performance.now();
  #told = this.#start;

  /**
   * @param pass `total`: pages to copy, about; `round`: of a live snapshot, from 0; `live`: the guest runs
   */
  constructor(
    reporter: Reporter,
    pass: { readonly total: number; readonly round: number | undefined; readonly live: boolean },
  ) {
    this.#reporter = reporter;
    this.#total = pass.total;
    this.#round = pass.round;
    this.#live = pass.live;
  }

  add(pages: number): void {
    this.copied += pages;
    if (performance.now() - this.#told >= INTERVAL_MS) this.tell();
  }

  tell(): void {
    const now = performance.now();
    this.#told = now;
    this.#reporter.progress(
      omitUndefined({
        phase: this.#live ? 'precopy' : 'memory',
        done: this.copied,
        total: Math.max(this.#total, this.copied),
        unit: 'pages' as const,
        rate: (this.copied * PAGE_SIZE * 1000) / Math.max(1, now - this.#start),
        round: this.#round,
      }),
    );
  }
}

/** Copies memory in rounds while the guest runs. */
import { Bitmap } from '../../core/bitmap.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { DomainError, SuspendError } from '../../core/errors.ts';
import { type Reporter, silentReporter } from '../../core/reporter.ts';
import type { CopyRound, PrecopyLimits } from '../api.ts';
import type { DirtyLog } from '../guest/dirty-log.ts';
import type { PageSaver } from './file-saver.ts';

/** Fewer dirty pages than this are not worth another round (libxc's number). */
const MIN_PAGES = 50;
/** A round that leaves more than this part of the dirty pages of the round before does not help any more. */
const BETTER = 0.9;
/** So often copying starts over when another program restarts Xen's dirty log. */
const MAX_LOSSES = 2;
/** Room for what the guest writes while it suspends, besides as much as it wrote in the last round, up to a limit. */
const SPARE_PAGES = 1024;
const MAX_AGAIN = 16 * 1024;

/** The copying of a running guest's memory, as far as it has come. */
export class Precopy {
  readonly rounds: CopyRound[] = [];
  readonly #saver: PageSaver;
  readonly #log: DirtyLog;
  /** Pages that were written since they were copied last, or could not be copied. */
  readonly #dirty: Bitmap;
  readonly #limits: PrecopyLimits;
  readonly #reporter: Reporter;
  /** How often the log was lost. */
  #losses = 0;

  /** Whether the file has all pages before the first round. */
  readonly #adopted: boolean;
  /** Whether the log stays on, for a later create. */
  readonly #keepsLog: boolean;

  /**
   * @param options `dirty`: which pages the first round has to copy, if the saver has all others (`FileSaver.adopt`); `keepLog`:
   * whether the log stays on
   */
  constructor(
    saver: PageSaver,
    log: DirtyLog,
    p2mSize: number,
    limits: PrecopyLimits,
    options: CallOptions & { readonly dirty?: Bitmap | undefined; readonly keepLog?: boolean },
  ) {
    this.#saver = saver;
    this.#log = log;
    this.#limits = limits;
    this.#adopted = options.dirty !== undefined;
    this.#dirty = options.dirty ?? new Bitmap(p2mSize);
    this.#keepsLog = options.keepLog === true;
    this.#reporter = options.reporter ?? silentReporter;
  }

  /**
   * Copies all memory, then again what was written in the meantime, until stopping the guest is cheap or cannot get cheaper.
   * Where Xen's log was lost in between, the rounds start over.
   * @throws {SuspendError} If copying the rest would take longer than `maxDowntimeMs`
   * @throws {DomainError} If the log is lost too often (`DIRTY_LOG_LOST`)
   */
  async run(): Promise<void> {
    const { maxRounds, targetDowntimeMs = 0, maxDowntimeMs: max = Number.POSITIVE_INFINITY } = this.#limits;
    const target = Math.min(targetDowntimeMs, max);
    let before: CopyRound | undefined;
    for (let sinceStart = 1; ; sinceStart++) {
      const losses = this.#losses;
      const round = await this.#round({ last: false });
      if (this.#losses > losses) {
        if (this.#losses > MAX_LOSSES) throw logRestartedError();
        before = undefined;
        sinceStart = 0;
        continue;
      }
      const { dirtyAfter } = round;
      const estimate = this.#saver.lastCopyMs(dirtyAfter) ?? estimateMs(round);
      const good = dirtyAfter < MIN_PAGES || estimate <= target;
      const stuck = before !== undefined && dirtyAfter > before.dirtyAfter * BETTER;
      before = round;
      if (!good && !stuck && sinceStart < maxRounds) continue;
      if (estimate > max) throw downtimeLimitError(estimate, max, this.rounds);
      // The guest writes on until it is suspended.
      this.#saver.readyToKeep(dirtyAfter + Math.min(dirtyAfter, MAX_AGAIN) + SPARE_PAGES);
      return;
    }
  }

  /** The round that makes the file right. The guest is suspended, and its device model stopped. */
  async finish(): Promise<void> {
    await this.#log.take(this.#dirty, { final: true, keep: this.#keepsLog });
    await this.#round({ last: true });
  }

  async #round({ last }: { last: boolean }): Promise<CopyRound> {
    const number = this.rounds.length;
    const start = performance.now();
    const pages =
      number === 0 && !this.#adopted
        ? await this.#saver.copyAll(this.#dirty)
        : await (last
            ? this.#saver.copyLast(this.#dirty, number)
            : this.#saver.copyDirty(this.#dirty, number));
    const seconds = (performance.now() - start) / 1000;
    if (!last && !(await this.#log.take(this.#dirty, { final: false }))) this.#losses++;
    const dirtyAfter = this.#dirty.count();
    const round = { pages, seconds, dirtyAfter };
    this.rounds.push(round);
    this.#reporter.progress({
      phase: last ? 'memory' : 'precopy',
      done: pages,
      total: pages,
      unit: 'pages',
      round: number,
      dirtyPages: dirtyAfter,
    });
    return round;
  }
}

/** How long copying the dirty pages would take, at the speed of the round just done. */
function estimateMs({ pages, seconds, dirtyAfter }: CopyRound): number {
  return pages === 0 ? 0 : (dirtyAfter / pages) * seconds * 1000;
}

function logRestartedError(): DomainError {
  return new DomainError('DIRTY_LOG_LOST', "another program keeps restarting the guest's dirty log", {
    hint: 'find out which one it is (xl, a migration, a monitor), then try again',
  });
}

function downtimeLimitError(estimateMs: number, maxMs: number, rounds: readonly CopyRound[]): SuspendError {
  const dirty = rounds.at(-1)?.dirtyAfter ?? 0;
  return new SuspendError(
    'DOWNTIME_LIMIT',
    `the guest would be stopped for about ${Math.ceil(estimateMs)} ms, more than the ${maxMs} ms allowed: ` +
      `it has written ${dirty} pages again after ${rounds.length} rounds`,
    {
      data: { estimatedDowntimeMs: estimateMs, maxDowntimeMs: maxMs, dirtyPages: dirty, rounds },
      hint: 'try again when the guest writes less, or allow more with --max-downtime',
    },
  );
}

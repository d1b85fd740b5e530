/** The dirty log of a live create, as far as it outlives one: begins where an earlier create left it, or leaves it for a later one. */
import { stat } from 'node:fs/promises';
import type { Bitmap } from '../../core/bitmap.ts';
import { describeError } from '../../core/errors.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Checksums } from '../../memfile/checksums.ts';
import type { CopyRound, CreateResult } from '../api.ts';
import { type CreateRun, type OpenOutput, warn } from '../create/open.ts';
import type { DirtyLog } from '../guest/dirty-log.ts';
import type { MemoryOutcome } from '../memory/file-saver.ts';
import { addMoved, brokenLog, isUnbroken, sumsDigest } from './base.ts';
import { dropTrack, writeTrack } from './record.ts';

export class Tracking {
  readonly #run: CreateRun;
  readonly #opened: OpenOutput;
  readonly #log: DirtyLog;
  #full: OpenOutput['full'];
  /** Whether the guest was tracked before. */
  #before = false;
  /** Whether it is now. */
  #now = false;

  constructor(run: CreateRun, opened: OpenOutput, log: DirtyLog) {
    this.#run = run;
    this.#opened = opened;
    this.#log = log;
    this.#full = opened.full;
  }

  /**
   * Turns the log on, or continues the one that is on. From here on the guest is not tracked until `keep`: what is taken from the log
   * is gone from there.
   * @param dirty gets what the file's base lacks; undefined if the file has none
   */
  async begin(dirty: Bitmap | undefined): Promise<void> {
    const { host, context, guest, options } = this.#run;
    this.#before = dropTrack(host, context.domain.uuid);
    const { base } = this.#opened;
    if (base === undefined || dirty === undefined) {
      await this.#log.start();
      return;
    }
    await this.#log.resume(base.base.track.marks);
    // If it is not whole, all bits are set.
    if (!(await this.#log.take(dirty, { final: false }))) this.#full = brokenLog();
    await addMoved(guest, base.placed, dirty, options.signal);
  }

  /**
   * Notes where the next create can begin. The snapshot is complete, so a failure is only a warning.
   * @returns whether the log is to stay on
   */
  async keep(
    { start, end, zeroPages, segments }: MemoryOutcome,
    checksums: Checksums | undefined,
  ): Promise<boolean> {
    const { host, context, guest } = this.#run;
    const { plan, domain } = context;
    if (!plan.tracking) return false;
    try {
      const { marks } = this.#log;
      if (checksums === undefined || plan.type === 'pv') throw new Error('there are no checksums');
      if (!(await isUnbroken(guest, marks))) throw new Error('another program has used its dirty log');
      const { dev, ino, size, mtimeMs } = await stat(plan.memoryPath);
      writeTrack(host, {
        domid: domain.domid,
        uuid: domain.uuid,
        domain: domain.name,
        type: plan.type,
        since: new Date().toISOString(),
        marks,
        parent: { path: plan.memoryPath, dev, inode: ino, bytes: size, mtimeMs, sums: sumsDigest(checksums) },
        shape: {
          prefix: this.#opened.prefix.length,
          start,
          end,
          zeroPages,
          segments: segments.map(({ places }) => places),
        },
      });
      this.#now = true;
    } catch (error) {
      warn(
        this.#run,
        `the guest is not tracked from now on, so the next snapshot copies all memory: ${describeError(error)}`,
      );
    }
    return this.#now;
  }

  /** What the result says. */
  result(rounds: readonly CopyRound[] | undefined): Pick<CreateResult, 'tracked' | 'tracking'> {
    const { plan } = this.#run.context;
    const asked = plan.tracking || this.#before;
    const parent = this.#opened.base?.base.parent.path;
    const pages = rounds?.reduce((sum, round) => sum + round.pages, 0) ?? 0;
    const full = asked ? this.#full : undefined;
    return omitUndefined({
      tracked: full ?? (parent === undefined ? undefined : { parent, pages }),
      tracking: asked ? this.#now : undefined,
    });
  }
}

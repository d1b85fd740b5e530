/** Log-dirty mode of a guest: which pages it writes while it runs. */
import { allOnes, Bitmap } from '../../core/bitmap.ts';
import { DomainError, InterruptedError, XlsnapError } from '../../core/errors.ts';
import type { DeviceModel, Guest } from '../ports.ts';

/** The dirty log of one guest: Xen's, and for HVM what QEMU adds to it. */
export class DirtyLog {
  /** One that was not opened can only have its log stopped. */
  readonly #guest: Guest | Pick<Guest, 'stopDirtyLog'>;
  readonly #deviceModel: Pick<DeviceModel, 'logDirty'> | undefined;
  #guestOn = false;
  /** Bits that only another program can have taken away; see `LogMarks`. */
  #marks: readonly number[] = [];
  #deviceModelOn = false;
  /** A call that was given up must not turn it on again when it ends. */
  #over = false;

  /** @param deviceModel when it writes to the guest's memory: HVM only */
  constructor(
    guest: Guest | Pick<Guest, 'stopDirtyLog'>,
    deviceModel: Pick<DeviceModel, 'logDirty'> | undefined,
  ) {
    this.#guest = guest;
    this.#deviceModel = deviceModel;
  }

  /** Takes over the log that a process left on when it exited; it can only be stopped. */
  static adopt(
    guest: Pick<Guest, 'stopDirtyLog'>,
    deviceModel: Pick<DeviceModel, 'logDirty'> | undefined,
  ): DirtyLog {
    const log = new DirtyLog(guest, deviceModel);
    log.#guestOn = true;
    log.#deviceModelOn = deviceModel !== undefined;
    return log;
  }

  get on(): boolean {
    return this.#guestOn || this.#deviceModelOn;
  }

  /** The pfns of the marks that are set, after the log was taken for the last time with `keep`. */
  get marks(): readonly number[] {
    return this.#marks;
  }

  /** QEMU first, as libxc does it: what it writes must not be missed once Xen's log begins. */
  async start(): Promise<void> {
    await this.#startQemus();
    this.#guestOn = true;
    await this.#opened.startDirtyLog();
    await this.#setMarks();
  }

  /**
   * Continues a log that an earlier create has left on.
   * @param marks those that it has set
   */
  async resume(marks: readonly number[]): Promise<void> {
    // It is on: whatever fails, it is ours to turn off.
    this.#guestOn = true;
    this.#marks = marks;
    await this.#startQemus();
  }

  async #startQemus(): Promise<void> {
    // Noted before, not after: a log that failed half-way is also turned off, which does no harm.
    this.#deviceModelOn = this.#deviceModel !== undefined;
    await this.#deviceModel?.logDirty(true);
    if (this.#over) throw new InterruptedError('INTERRUPTED', 'the log was turned off in the meantime');
  }

  /**
   * Does what `Guest.takeDirty` does, and looks at the marks: Xen's count cannot show that another program has restarted the log
   * and then taken from it.
   * @param options `keep`: the log stays on afterwards, for a later create
   * @throws {DomainError} If it is final, and the log is not whole (`DIRTY_LOG_LOST`)
   */
  async take(pages: Bitmap, { final, keep = !final }: { final: boolean; keep?: boolean }): Promise<boolean> {
    const marks = this.#marks;
    const taken = new Bitmap(pages.size);
    const whole = await this.#opened.takeDirty(taken, { final });
    this.#marks = [];
    if (keep) await this.#setMarks();
    const unbroken = marks.every((pfn) => taken.has(pfn));
    if (!unbroken && final) throw logLostError();
    pages.or(unbroken ? taken.bytes : allOnes(pages.size));
    return whole && unbroken;
  }

  /** What cannot be marked is only known less well. */
  async #setMarks(): Promise<void> {
    this.#marks = (await this.#opened.logMarks?.set().catch(() => undefined)) ?? [];
  }

  get #opened(): Guest {
    if ('takeDirty' in this.#guest) return this.#guest;
    throw new Error('this log can only be stopped');
  }

  /**
   * Turns off what is on; both, even if one fails. May be called again after it failed.
   * @returns why its QEMU has exited, and its log with it, if it has
   */
  async stop(): Promise<XlsnapError | undefined> {
    this.#over = true;
    let dead: XlsnapError | undefined;
    try {
      if (this.#guestOn) await this.#guest.stopDirtyLog();
      this.#guestOn = false;
    } finally {
      dead = await this.#stopQemus();
    }
    return dead;
  }

  async #stopQemus(): Promise<XlsnapError | undefined> {
    let dead: XlsnapError | undefined;
    if (this.#deviceModelOn) {
      try {
        // It may be off already, turned off by another program or by an undo before this one; and off twice kills QEMU.
        await this.#deviceModel?.logDirty(true);
        await this.#deviceModel?.logDirty(false);
      } catch (error) {
        if (!isQemuDead(error)) throw error;
        dead = error;
      }
    }
    this.#deviceModelOn = false;
    return dead;
  }
}

/** Tells whether an error says that the domain's QEMU has exited, see `DeviceModel.logDirty`. */
export function isQemuDead(error: unknown): error is XlsnapError {
  return error instanceof XlsnapError && error.code === 'QEMU_DIED';
}

function logLostError(): DomainError {
  return new DomainError('DIRTY_LOG_LOST', 'another program has taken the dirty log over', {
    hint: 'is another program saving or migrating the domain? try again when that has finished',
  });
}

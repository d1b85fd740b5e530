import type { Bitmap } from '../core/bitmap.ts';
import { InterruptedError } from '../core/errors.ts';
import type { DeviceModel, Guest } from './ports.ts';

/** The dirty log of one guest: Xen's, and for HVM what QEMU adds to it. */
export class DirtyLog {
  readonly #guest: Guest;
  readonly #deviceModel: DeviceModel | undefined;
  #guestOn = false;
  #deviceModelOn = false;
  /** A call that was given up, and ends now, must not turn it on again. */
  #over = false;

  /** @param deviceModel when it writes to the guest's memory: HVM only */
  constructor(guest: Guest, deviceModel: DeviceModel | undefined) {
    this.#guest = guest;
    this.#deviceModel = deviceModel;
  }

  /** The log that a process which is gone has left on. */
  static adopt(guest: Guest, deviceModel: DeviceModel | undefined): DirtyLog {
    const log = new DirtyLog(guest, deviceModel);
    log.#guestOn = true;
    log.#deviceModelOn = deviceModel !== undefined;
    return log;
  }

  get on(): boolean {
    return this.#guestOn || this.#deviceModelOn;
  }

  /** QEMU first, as libxc does it: what it writes must not be missed once Xen's log begins. */
  async start(): Promise<void> {
    // Noted before, not after: one that failed half-way is turned off as well, which does no harm.
    this.#deviceModelOn = this.#deviceModel !== undefined;
    await this.#deviceModel?.logDirty(true);
    if (this.#over) throw new InterruptedError('INTERRUPTED', 'the log was turned off meanwhile');
    this.#guestOn = true;
    await this.#guest.startDirtyLog();
  }

  /** See `Guest.takeDirty`. */
  async take(pages: Bitmap, options: { final: boolean }): Promise<void> {
    await this.#guest.takeDirty(pages, options);
  }

  /** Turns off what is on; both, even if one fails. May be called again after it failed. */
  async stop(): Promise<void> {
    this.#over = true;
    try {
      if (this.#guestOn) await this.#guest.stopDirtyLog();
      this.#guestOn = false;
    } finally {
      if (this.#deviceModelOn) {
        // It may be off already, turned off by another program or by an undo before this one; and off twice kills QEMU.
        await this.#deviceModel?.logDirty(true);
        await this.#deviceModel?.logDirty(false);
      }
      this.#deviceModelOn = false;
    }
  }
}

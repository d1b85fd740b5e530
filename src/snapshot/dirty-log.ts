import type { Bitmap } from '../core/bitmap.ts';
import type { DeviceModel, Guest } from './ports.ts';

/** The dirty log of one guest: Xen's, and for HVM what QEMU adds to it. */
export class DirtyLog {
  readonly #guest: Guest;
  readonly #deviceModel: DeviceModel | undefined;
  #guestOn = false;
  #deviceModelOn = false;

  /** @param deviceModel when it writes to the guest's memory: HVM only */
  constructor(guest: Guest, deviceModel: DeviceModel | undefined) {
    this.#guest = guest;
    this.#deviceModel = deviceModel;
  }

  /** QEMU first, as libxc does it: what it writes must not be missed once Xen's log begins. */
  async start(): Promise<void> {
    // Noted before, not after: one that failed half-way is turned off as well, which does no harm.
    this.#deviceModelOn = this.#deviceModel !== undefined;
    await this.#deviceModel?.logDirty(true);
    this.#guestOn = true;
    await this.#guest.startDirtyLog();
  }

  /** See `Guest.takeDirty`. */
  async take(pages: Bitmap, options: { final: boolean }): Promise<void> {
    await this.#guest.takeDirty(pages, options);
  }

  /** Turns off what is on; both, even if one fails. May be called again after it failed. */
  async stop(): Promise<void> {
    try {
      if (this.#guestOn) await this.#guest.stopDirtyLog();
      this.#guestOn = false;
    } finally {
      if (this.#deviceModelOn) await this.#deviceModel?.logDirty(false);
      this.#deviceModelOn = false;
    }
  }
}

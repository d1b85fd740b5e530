import type { Domid } from '../core/brand.ts';
import { SuspendError } from '../core/errors.ts';
import type { DeviceModel, Hypervisor } from './ports.ts';

/** Holds a guest still, and lets it go on as it was before. */
export class GuestHold {
  readonly #hypervisor: Hypervisor;
  readonly #domid: Domid;
  /** How many pauses of its owner were taken away; Xen counts them. */
  #pauses = 0;
  #asked = false;
  #stopped: DeviceModel | undefined;

  constructor(hypervisor: Hypervisor, domid: Domid) {
    this.#hypervisor = hypervisor;
    this.#domid = domid;
  }

  /**
   * Suspends the guest. One that its owner has paused is unpaused for it, since only a running guest can suspend.
   * @throws SuspendError
   */
  async suspend(options: { timeoutMs: number; signal?: AbortSignal }): Promise<void> {
    while ((await this.#hypervisor.domainState(this.#domid))?.paused === true) {
      await this.#hypervisor.unpause(this.#domid);
      this.#pauses++;
    }
    // Suspended by somebody else, an `xl save` say: then it is not ours to resume.
    const shutdown = (await this.#hypervisor.domainState(this.#domid))?.shutdown;
    if (shutdown !== undefined) {
      throw new SuspendError(
        'SUSPEND_OTHER',
        `the guest was shut down (${shutdown}) by somebody else meanwhile`,
        {
          domid: this.#domid,
          hint: 'does another program save or migrate it?',
        },
      );
    }
    this.#asked = true;
    await this.#hypervisor.suspend(this.#domid, options);
  }

  /** Stops the machine of an HVM guest. */
  async stop(deviceModel: DeviceModel): Promise<void> {
    // Before, not after: a stop that failed half-way is undone as well, and `cont` does no harm.
    this.#stopped = deviceModel;
    await deviceModel.stop();
  }

  /**
   * Lets the guest go on, or leaves it paused if it was. May be called again after it failed: what is done already
   * is not done twice.
   */
  async release(): Promise<void> {
    // Paused first, so that a guest that was paused executes nothing in between.
    for (; this.#pauses > 0; this.#pauses--) await this.#hypervisor.pause(this.#domid);
    await this.#stopped?.cont();
    this.#stopped = undefined;
    // Looked at, not remembered: a guest whose suspend failed by time-out may have suspended since.
    if (this.#asked && (await this.#hypervisor.domainState(this.#domid))?.shutdown === 'suspend') {
      await this.#hypervisor.resume(this.#domid);
    }
    this.#asked = false;
  }
}

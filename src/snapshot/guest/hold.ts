/** Suspends a guest, and makes sure that it is resumed. */
import type { Domid } from '../../core/brand.ts';
import { within } from '../../core/deadline.ts';
import { DomainError, EnvironmentError, InterruptedError, SuspendError } from '../../core/errors.ts';
import { isRecord } from '../../core/guards.ts';
import type { DeviceModel, Hypervisor } from '../ports.ts';
import { isGone } from './gone.ts';

/** What has been done to a guest; plain data, so that another process can take it up. */
export interface HoldState {
  /** How many of its owner's pauses were removed; Xen counts them. */
  readonly pauses: number;
  /** A pause or unpause is in flight; only the domain shows whether it took effect. */
  readonly pending?: 'pause' | 'unpause';
  /** It was asked to suspend. */
  readonly asked: boolean;
  /** It has suspended. */
  readonly suspended: boolean;
  /** QEMU has stopped its machine. */
  readonly stopped: boolean;
  /** It runs again, but xenstored may not know. */
  readonly unannounced?: boolean;
}

/** How long a QEMU may take to resume its machine; after that the guest resumes without it. */
const CONT_TIMEOUT_MS = 5000;

const FREE: HoldState = { pauses: 0, asked: false, suspended: false, stopped: false };

/** Tells whether anything has been done to the guest. */
export function isHeld({ pauses, pending, asked, stopped, unannounced }: HoldState): boolean {
  return pauses > 0 || pending !== undefined || asked || stopped || unannounced === true;
}

export function isHold(value: unknown): value is HoldState {
  if (!isRecord(value)) return false;
  const { pauses, pending, asked, suspended, stopped, unannounced } = value;
  return (
    typeof pauses === 'number' &&
    Number.isSafeInteger(pauses) &&
    pauses >= 0 &&
    // Xen counts in 32 bits; a loop over more would not end.
    pauses < 1e6 &&
    (pending === undefined || pending === 'pause' || pending === 'unpause') &&
    typeof asked === 'boolean' &&
    typeof suspended === 'boolean' &&
    typeof stopped === 'boolean' &&
    (unannounced === undefined || typeof unannounced === 'boolean')
  );
}

/** Suspends a guest, and resumes it into the state that it was in before. */
export class GuestHold {
  readonly #hypervisor: Hypervisor;
  readonly #domid: Domid;
  readonly #note: (state: HoldState) => void;
  #state: HoldState;
  #deviceModel: DeviceModel | undefined;
  /** Whether the outcome of the request to suspend is unknown. */
  #unsure = false;
  /** The guest was released: a call that was given up must not hold it again when it ends. */
  #over = false;

  /** @param note is called before anything takes effect, and after; if it throws, nothing takes effect */
  constructor(hypervisor: Hypervisor, domid: Domid, note: (state: HoldState) => void = () => {}) {
    this.#hypervisor = hypervisor;
    this.#domid = domid;
    this.#note = note;
    this.#state = FREE;
  }

  /** Takes over a guest from a process that has exited; `release` resumes it. */
  static adopt(
    hypervisor: Hypervisor,
    domid: Domid,
    left: HoldState,
    deviceModel: DeviceModel | undefined,
  ): GuestHold {
    const hold = new GuestHold(hypervisor, domid);
    hold.#state = left;
    hold.#deviceModel = deviceModel;
    hold.#unsure = left.asked && !left.suspended;
    return hold;
  }

  /**
   * Suspends the guest. One that its owner has paused is unpaused for it, since only a running guest can suspend.
   * @throws {SuspendError} If it does not suspend
   */
  async suspend(options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<void> {
    while ((await this.#hypervisor.vitals(this.#domid))?.paused === true) {
      this.#set({ pending: 'unpause' });
      await this.#hypervisor.unpause(this.#domid);
      this.#set({ pauses: this.#state.pauses + 1 });
    }
    // Suspended by another program, such as `xl save`: then it is not ours to resume.
    const shutdown = (await this.#hypervisor.vitals(this.#domid))?.shutdown;
    if (shutdown !== undefined) {
      throw new SuspendError(
        'SUSPEND_OTHER',
        `the guest was shut down (${shutdown}) by another program in the meantime`,
        {
          domid: this.#domid,
          hint: 'is another program saving or migrating it?',
        },
      );
    }
    this.#set({ asked: true });
    this.#unsure = true;
    try {
      await this.#hypervisor.suspend(this.#domid, options);
    } finally {
      this.#unsure = false;
    }
    this.#set({ suspended: true });
  }

  /**
   * Makes sure that the guest is still suspended. If another program had resumed it (as the end of an `xl save -c` does), what
   * was copied would not be of one instant.
   * @throws {SuspendError} If another program has resumed it
   * @throws {DomainError} If it was destroyed
   */
  async check(): Promise<void> {
    const domid = this.#domid;
    const state = await this.#hypervisor.vitals(domid);
    if (isGone(state)) throw new DomainError('DOMAIN_GONE', 'it was destroyed in the meantime', { domid });
    if (state?.shutdown === 'suspend') return;
    throw new SuspendError(
      'RESUMED_BY_OTHER',
      'the guest was resumed by another program before the snapshot was taken',
      {
        domid,
        hint: 'is another program saving or migrating it? try again when that has finished',
      },
    );
  }

  /** Stops the machine of an HVM guest. */
  async stop(deviceModel: DeviceModel): Promise<void> {
    // Before, not after: a stop that failed half-way is undone as well, and `cont` does no harm.
    this.#deviceModel = deviceModel;
    this.#set({ stopped: true });
    await deviceModel.stop();
  }

  /**
   * Resumes the guest, or leaves it paused if it was: by Xen alone, and by its QEMU as long as that answers. May be
   * called again after a failure: nothing is done twice.
   * @returns whether it is still there
   * @throws {XlsnapError} If Xen refuses, or if its QEMU did not answer: the guest may run then
   */
  async release(): Promise<boolean> {
    this.#over = true;
    if (isHeld(this.#state)) {
      if (await this.#isGone()) return false;
    }
    await this.#settle();
    // The call that asked it is not over, or its process has exited. First of all, for a paused guest cannot suspend.
    if (this.#unsure && !(await this.#isSuspended())) await this.#hypervisor.withdrawSuspend(this.#domid);
    this.#unsure = false;
    // Paused first, so that a guest that was paused executes nothing in between.
    while (this.#state.pauses > 0) {
      this.#tell({ ...this.#state, pending: 'pause' });
      await this.#hypervisor.pause(this.#domid);
      this.#state = { ...this.#state, pauses: this.#state.pauses - 1 };
      this.#tell(this.#state);
    }
    let problem: { readonly cause: unknown } | undefined;
    if (this.#state.stopped) {
      try {
        await this.#cont();
        this.#state = { ...this.#state, stopped: false };
      } catch (cause) {
        problem = { cause };
      }
    }
    if (this.#state.asked) {
      // Looked at, not remembered: a guest whose suspend failed by time-out may have suspended since.
      if (await this.#isSuspended()) await this.#hypervisor.resume(this.#domid);
      this.#state = { ...this.#state, asked: false, suspended: false, unannounced: true };
    }
    this.#tell(this.#state);
    if (problem !== undefined) throw problem.cause;
    return true;
  }

  /**
   * Informs xenstored that the guest runs again, where it may not know. When the guest runs, for nothing waits for it then.
   * May be called again after it failed.
   */
  async announce(): Promise<void> {
    if (this.#state.unannounced !== true) return;
    if (!(await this.#isGone())) {
      try {
        await this.#hypervisor.announceResume(this.#domid);
      } catch (error) {
        // Destroyed in between: there is nothing to inform anyone of.
        if (!(await this.#isGone().catch(() => false))) throw error;
      }
    }
    const { unannounced: _, ...rest } = this.#state;
    this.#state = rest;
    this.#tell(rest);
  }

  async #isGone(): Promise<boolean> {
    return isGone(await this.#hypervisor.vitals(this.#domid));
  }

  async #isSuspended(): Promise<boolean> {
    return (await this.#hypervisor.vitals(this.#domid))?.shutdown === 'suspend';
  }

  async #cont(): Promise<void> {
    if (this.#deviceModel === undefined) throw noQemuError(this.#domid);
    await within(
      this.#deviceModel.cont(),
      { timeoutMs: CONT_TIMEOUT_MS },
      () =>
        new EnvironmentError(
          'QEMU_HANGS',
          `the QEMU of domain ${this.#domid} did not resume the guest's devices within ${CONT_TIMEOUT_MS / 1000} s`,
          { domid: this.#domid, hint: `xl qemu-monitor-command ${this.#domid} cont, when it answers again` },
        ),
    );
  }

  /** A domain is paused or it is not; how often cannot be seen. Where in doubt, its owner's one unpause must do. */
  async #settle(): Promise<void> {
    const { pending, ...state } = this.#state;
    if (pending === undefined) return;
    const paused = (await this.#hypervisor.vitals(this.#domid))?.paused === true;
    const moved = pending === 'unpause' ? (paused ? 0 : 1) : paused ? -1 : 0;
    this.#state = { ...state, pauses: Math.max(0, state.pauses + moved) };
  }

  #set(change: Partial<HoldState>): void {
    if (this.#over) throw new InterruptedError('INTERRUPTED', 'the guest was resumed in the meantime');
    const { pending: _, ...settled } = this.#state;
    const next = { ...settled, ...change };
    this.#note(next);
    this.#state = next;
  }

  /** Notes a state while the guest is resumed: nothing, such as a full disk, may prevent that. */
  #tell(state: HoldState): void {
    try {
      this.#note(state);
    } catch {
      // Whoever takes it up looks at the domain first.
    }
  }
}

function noQemuError(domid: Domid): EnvironmentError {
  return new EnvironmentError('NO_DEVICE_MODEL', `the QEMU of domain ${domid} cannot be reached`, { domid });
}

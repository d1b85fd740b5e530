/** Implements the port `Hypervisor` by libxenctrl and xenstore. */
import { type Domid, PAGE_SIZE } from '../../core/brand.ts';
import { DomainError, SuspendError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import type { GuestType, XenVersion } from '../../core/xen.ts';
import type { DomainState, DomainVitals, Guest, Hypervisor } from '../../snapshot/ports.ts';
import {
  type DomainInfo,
  HVM_PARAM,
  type OpenXenOptions,
  SHUTDOWN,
  XenControl,
} from '../../xenctrl/index.ts';
import {
  type XenstoreAccess,
  XenstoreClient,
  XenstoreTimeoutError,
  type XenstoreWatch,
} from '../../xenstore/index.ts';
import type { Xen } from './guest-records.ts';
import { HvmGuest } from './hvm-guest.ts';
import { PvGuest } from './pv-guest.ts';
import { checkAgainstXenstore } from './self-test.ts';

/** How long a guest that has acknowledged the request may take to suspend, in milliseconds; as in libxl. */
const ACKNOWLEDGED_MS = 60_000;
/** Interval in milliseconds at which the domain is checked even if xenstored reports nothing. */
const POLL_MS = 500;

const SHUTDOWN_NAMES: readonly (readonly [number, NonNullable<DomainState['shutdown']>])[] = [
  [SHUTDOWN.SHUTDOWN_poweroff, 'poweroff'],
  [SHUTDOWN.SHUTDOWN_reboot, 'reboot'],
  [SHUTDOWN.SHUTDOWN_suspend, 'suspend'],
  [SHUTDOWN.SHUTDOWN_crash, 'crash'],
  [SHUTDOWN.SHUTDOWN_watchdog, 'watchdog'],
  [SHUTDOWN.SHUTDOWN_soft_reset, 'soft_reset'],
];

const UNTESTED_PV: Problem = {
  code: 'XEN_UNTESTED_PV',
  message: 'PV guests cannot be saved on a release of Xen that xlsnap does not know',
  hint: 'PV guests need calls that change with each release; use a newer xlsnap',
};

/** The part of `XenstoreClient` that is used. */
export interface SuspendXenstore {
  readMaybe(path: string): Promise<string | undefined>;
  write(path: string, value: string): Promise<void>;
  transaction<T>(work: (access: Pick<XenstoreAccess, 'readMaybe' | 'write'>) => Promise<T>): Promise<T>;
  watch(path: string): Promise<Pick<XenstoreWatch, 'next'> & AsyncDisposable>;
  resumeDomain(domid: number): Promise<void>;
}

/** Implements the port `Hypervisor` on real Xen. */
export class XenHypervisor implements Hypervisor, AsyncDisposable {
  readonly #xen: Xen;
  readonly #xenstore: SuspendXenstore;
  readonly #reconnect:
    | (() => Promise<Pick<SuspendXenstore, 'resumeDomain'> & { close(): Promise<void> }>)
    | undefined;

  /**
   * Takes the connections.
   * @param reconnect opens another connection to xenstored if the first one broke
   */
  constructor(
    xen: Xen,
    xenstore: SuspendXenstore,
    reconnect?: () => Promise<Pick<SuspendXenstore, 'resumeDomain'> & { close(): Promise<void> }>,
  ) {
    this.#xen = xen;
    this.#xenstore = xenstore;
    this.#reconnect = reconnect;
  }

  /**
   * Opens Xen's interface.
   * @param xenstore remains the caller's
   * @throws {EnvironmentError} If this is not a dom0, libraries are missing, its Xen is not a supported one, or the
   * self-test of an untested one fails.
   */
  static async open(xenstore: SuspendXenstore, options: OpenXenOptions = {}): Promise<XenHypervisor> {
    return new XenHypervisor(await XenControl.open(options), xenstore, () => XenstoreClient.connect());
  }

  async version(): Promise<XenVersion> {
    return this.#xen.version;
  }

  async domainState(domid: Domid): Promise<DomainState | undefined> {
    const info = await this.#xen.domainInfo(domid);
    if (info === undefined) return undefined;
    if (this.#xen.proof === 'none' && domid !== 0 && !info.dying) {
      await checkAgainstXenstore(this.#xenstore, domid, info);
    }
    return {
      domid,
      uuid: info.uuid,
      name: (await this.#xenstore.readMaybe(`/local/domain/${domid}/name`)) ?? '',
      type: await this.#guestType(domid, info),
      paused: info.paused,
      dying: info.dying,
      shutdown: shutdownName(info.shutdownReason),
      memoryBytes: info.memoryBytes,
    };
  }

  async vitals(domid: Domid): Promise<DomainVitals | undefined> {
    const info = await this.#xen.domainInfo(domid);
    if (info === undefined) return undefined;
    const { uuid, paused, dying, shutdownReason } = info;
    return { domid, uuid, paused, dying, shutdown: shutdownName(shutdownReason) };
  }

  async pause(domid: Domid): Promise<void> {
    await this.#xen.pause(domid);
  }

  async unpause(domid: Domid): Promise<void> {
    await this.#xen.unpause(domid);
  }

  async suspend(
    domid: Domid,
    options: { timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<void> {
    // The watch comes first, so that nothing is missed.
    await using released = await this.#xenstore.watch('@releaseDomain');
    const asked = await this.#requestSuspend(domid);
    try {
      if (await this.#suspended(domid, released, options.timeoutMs, options.signal)) return;
    } catch (error) {
      // If the domain no longer exists or has shut down, there is nothing to undo.
      if (!(error instanceof SuspendError)) await this.#undoSuspend(domid, asked, released);
      throw error;
    }
    const seconds = options.timeoutMs / 1000;
    if (asked && (await this.#takeBack(domid))) {
      throw new SuspendError(
        'SUSPEND_TIMEOUT',
        `the guest did not respond to the request to suspend within ${seconds} s`,
        {
          domid,
          hint: 'is the guest running, and does it have PV drivers? a longer --timeout may help; a guest that is booting cannot suspend',
        },
      );
    }
    if (await this.#suspended(domid, released, ACKNOWLEDGED_MS)) return;
    throw new SuspendError(
      'SUSPEND_STUCK',
      `the guest acknowledged the request to suspend, but has not suspended within ${seconds + ACKNOWLEDGED_MS / 1000} s`,
      {
        domid,
        hint: "it may still suspend (`xl list`: state s); if not, a driver in the guest may have refused: see the guest's dmesg",
      },
    );
  }

  async withdrawSuspend(domid: Domid): Promise<void> {
    await using released = await this.#xenstore.watch('@releaseDomain');
    const info = await this.#xen.domainInfo(domid);
    // The domain no longer exists or has shut down: there is nothing to undo.
    if (info === undefined || info.dying || info.shutdownReason !== undefined) return;
    if (await this.#takeBack(domid)) return;
    // An empty node means acknowledged, or never written. Only waiting shows which.
    try {
      await this.#suspended(domid, released, ACKNOWLEDGED_MS);
    } catch (error) {
      if (!(error instanceof SuspendError)) throw error;
    }
  }

  async resume(domid: Domid): Promise<void> {
    await this.#xen.resume(domid);
  }

  async announceResume(domid: Domid): Promise<void> {
    try {
      await this.#xenstore.resumeDomain(domid);
    } catch (error) {
      // Its connection may be broken for good, for example because xenstored was restarted.
      if (this.#reconnect === undefined) throw error;
      const fresh = await this.#reconnect();
      try {
        await fresh.resumeDomain(domid);
      } finally {
        await fresh.close();
      }
    }
  }

  async freeMemory(): Promise<number> {
    return this.#xen.freeMemory();
  }

  /**
   * Finds out why an HVM guest's memory must not be read. Asking for the types of its pages gives it those
   * that it has yet to be given, and if none are left, Xen kills the guest (xen/arch/x86/mm/p2m-pod.c: "out
   * of PoD memory"). As long as there is one for each, reading does no harm.
   */
  async memoryObstacle(domid: Domid, type: GuestType): Promise<Problem | undefined> {
    if (type === 'pv') return this.#xen.proof === 'none' ? UNTESTED_PV : undefined;
    const { entries, cachePages } = await this.#xen.podCounts(domid);
    if (entries <= cachePages) return undefined;
    const mib = (pages: number): string => `${Math.ceil((pages * PAGE_SIZE) / 1024 ** 2)} MiB`;
    return {
      code: 'POPULATE_ON_DEMAND',
      message:
        `the guest believes it has ${mib(entries)} of memory that it has not received yet, and only ${mib(cachePages)} are set ` +
        'aside for it: Xen would kill it if they were read',
      hint: 'wait until its balloon driver has started and reached its target, or give it all of its memory: xl mem-set to its maxmem',
    };
  }

  /** Does what `Hypervisor.hasBooted` says. */
  hasBooted(domid: Domid, type: GuestType): Promise<boolean> {
    return this.#xen.hasBooted(domid, type !== 'pv');
  }

  /** Does what `Hypervisor.stopDirtyLog` says. */
  stopDirtyLog(domid: Domid): Promise<void> {
    return this.#xen.stopDirtyLog(domid);
  }

  /**
   * Finds out why memory cannot be copied while the guest runs. Shadow paging keeps the dirty log of a PV
   * guest; for other guests, the processor's own tables can.
   */
  async liveObstacle(type: GuestType): Promise<Problem | undefined> {
    if (type !== 'pv' || this.#xen.shadowPaging()) return undefined;
    return {
      code: 'NO_LIVE',
      message: 'this Xen was built without shadow paging, which is needed to copy a PV guest while it runs',
      hint: 'take the snapshot without --live: the guest is stopped while its memory is copied; `xl info` shows "shadow" in virt_caps where --live works',
    };
  }

  async openGuest(domid: Domid): Promise<Guest> {
    const info = await this.#xen.domainInfo(domid);
    if (info === undefined) {
      throw new DomainError('DOMAIN_GONE', `there is no domain ${domid}`, { domid });
    }
    if (!info.hvm) return await PvGuest.open(this.#xen, domid, info);
    return await HvmGuest.open(this.#xen, domid);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#xen[Symbol.asyncDispose]();
  }

  /**
   * Returns the guest's type. libxl writes `pvh` to /libxl/<domid>/type; without it, what Xen reports must
   * do.
   */
  async #guestType(domid: Domid, info: DomainInfo): Promise<GuestType> {
    if (!info.hvm) return 'pv';
    return (await this.#xenstore.readMaybe(`/libxl/${domid}/type`)) === 'pvh' ? 'pvh' : 'hvm';
  }

  /**
   * Asks the guest to suspend. PV drivers answer a request in xenstore; an HVM guest without them, or in an
   * ACPI sleep state, is stopped from outside (tools/libs/light/libxl_dom_suspend.c).
   * @returns whether the guest was asked
   */
  async #requestSuspend(domid: Domid): Promise<boolean> {
    const info = await this.#xen.domainInfo(domid);
    if (info === undefined) throw gone(domid);
    if (
      (await this.#guestType(domid, info)) === 'hvm' &&
      ((await this.#xen.hvmParam(domid, HVM_PARAM.HVM_PARAM_CALLBACK_IRQ)) === 0n ||
        (await this.#xen.hvmParam(domid, HVM_PARAM.HVM_PARAM_ACPI_S_STATE)) !== 0n)
    ) {
      await this.#xen.shutdown(domid, SHUTDOWN.SHUTDOWN_suspend);
      return false;
    }
    await this.#xenstore.write(shutdownPath(domid), 'suspend');
    return true;
  }

  /**
   * Waits until the guest has suspended.
   * @returns false if the time is over
   * @throws {SuspendError} If the guest no longer exists or has shut down.
   * @throws {InterruptedError} If the signal aborted.
   */
  async #suspended(
    domid: Domid,
    released: Pick<XenstoreWatch, 'next'>,
    timeoutMs: number,
    signal?: AbortSignal | undefined,
  ): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      const info = await this.#xen.domainInfo(domid);
      if (info === undefined || info.dying) throw gone(domid);
      const shutdown = shutdownName(info.shutdownReason);
      if (shutdown === 'suspend') return true;
      if (shutdown !== undefined) {
        throw new SuspendError(
          'SUSPEND_SHUTDOWN',
          `the guest shut down (${shutdown}) instead of suspending`,
          {
            domid,
            data: { shutdown },
          },
        );
      }
      const left = deadline - performance.now();
      if (left <= 0) return false;
      try {
        await released.next({ timeoutMs: Math.min(left, POLL_MS), signal });
      } catch (error) {
        if (!(error instanceof XenstoreTimeoutError)) throw error;
      }
    }
  }

  /** Makes the guest keep running, whatever became of the request. */
  async #undoSuspend(domid: Domid, asked: boolean, released: Pick<XenstoreWatch, 'next'>): Promise<void> {
    if (asked && (await this.#takeBack(domid))) return;
    // Too late to withdraw it: let the suspend happen, and undo it.
    if (!(await this.#suspended(domid, released, ACKNOWLEDGED_MS))) return;
    await this.resume(domid);
    await this.announceResume(domid);
  }

  /** Withdraws the request, unless the guest has acknowledged it by emptying the node. */
  async #takeBack(domid: Domid): Promise<boolean> {
    const path = shutdownPath(domid);
    return await this.#xenstore.transaction(async (access) => {
      if ((await access.readMaybe(path)) !== 'suspend') return false;
      await access.write(path, '');
      return true;
    });
  }
}

function shutdownPath(domid: Domid): string {
  return `/local/domain/${domid}/control/shutdown`;
}

function shutdownName(reason: number | undefined): DomainState['shutdown'] {
  if (reason === undefined) return undefined;
  return SHUTDOWN_NAMES.find(([value]) => value === reason)?.[1] ?? 'other';
}

function gone(domid: Domid): SuspendError {
  return new SuspendError('SUSPEND_GONE', `domain ${domid} was destroyed while it was suspending`, { domid });
}

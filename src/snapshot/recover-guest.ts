/** What a killed create has left of a guest, put right by its record on tmpfs: no storage is needed for it. */
import { toDomid } from '../core/brand.ts';
import { within } from '../core/deadline.ts';
import { EnvironmentError } from '../core/errors.ts';
import { undoHold, undoLog, undoRecord } from './create-undo.ts';
import { DirtyLog } from './dirty-log.ts';
import { isGone } from './guest-now.ts';
import { GuestHold, isHeld } from './hold.ts';
import { type FoundHold, removeHold } from './hold-record.ts';
import { Phases } from './phases.ts';
import type { DeviceModel, Guest, Host } from './ports.ts';
import type { CallOptions } from './types.ts';

/** How long reaching its QEMU may take: the guest goes on without it then. */
const QEMU_TIMEOUT_MS = 10_000;

/**
 * Lets the guest go on, then turns log-dirty mode off. May be called any number of times, under the domain's lock.
 * @returns as `Phases.undo`
 */
export async function recoverGuest(
  host: Host,
  found: FoundHold,
  options: CallOptions,
): Promise<{ undone: readonly string[]; failures: readonly string[] }> {
  const domid = toDomid(found.domid);
  const vitals = await host.hypervisor.vitals(domid);
  if (vitals === undefined || isGone(vitals) || vitals.uuid !== found.uuid) {
    removeHold(found);
    return { undone: [], failures: [] };
  }
  const { hold: left, logDirty, type } = found;
  const held = left !== undefined && isHeld(left);
  const phases = new Phases(options);
  const needsQemu = type === 'hvm' && (logDirty || (held && left.stopped));
  await using deviceModel = needsQemu ? await reach(host, found) : undefined;
  const hold = held ? GuestHold.adopt(host.hypervisor, domid, left, deviceModel) : undefined;
  undoRecord(phases, domid, { close() {}, remove: () => removeHold(found) }, async () => hold?.announce());
  if (hold !== undefined) {
    undoHold(
      phases,
      left !== undefined && (left.pauses > 0 || left.pending !== undefined) ? 'paused' : 'running',
      domid,
      hold,
    );
    await phases.undoFirst();
  }
  let guest: Guest | undefined;
  try {
    if (logDirty) {
      try {
        guest = await host.hypervisor.openGuest(domid);
        undoLog(phases, host, domid, DirtyLog.adopt(guest, deviceModel));
      } catch (error) {
        phases.onUndo('turned log-dirty mode off', `xl save -c of domain ${domid} turns it off`, () =>
          Promise.reject(error),
        );
      }
    }
    return await phases.undo();
  } finally {
    await guest?.[Symbol.asyncDispose]();
  }
}

/** What needs no QEMU is undone without it. */
async function reach(host: Host, { domid }: FoundHold): Promise<DeviceModel | undefined> {
  const opening = host.toolstack.openDeviceModel(toDomid(domid), {});
  try {
    return await within(
      opening,
      { timeoutMs: QEMU_TIMEOUT_MS },
      () => new EnvironmentError('QEMU_HANGS', `the QEMU of domain ${domid} does not answer`),
    );
  } catch {
    opening.then(
      (late) => late?.[Symbol.asyncDispose]().then(undefined, () => {}),
      () => {},
    );
    return undefined;
  }
}

/** Restores a guest that a killed create left suspended, by its record on tmpfs: this needs no storage. */
import { toDomid } from '../../core/brand.ts';
import type { CallOptions } from '../../core/call-options.ts';
import { within } from '../../core/deadline.ts';
import { EnvironmentError, RecoverError, XlsnapError } from '../../core/errors.ts';
import type { RecoverResult } from '../api.ts';
import { Phases } from '../phases.ts';
import type { DeviceModel, Host } from '../ports.ts';
import { dropTrack } from '../track/record.ts';
import { DirtyLog } from './dirty-log.ts';
import { GuestHold, isHeld } from './hold.ts';
import { type FoundHold, isOver, noteLogOff, removeHold } from './hold-record.ts';
import { planHoldUndo, planLogUndo, planRecordUndo } from './undo.ts';

/** How long reaching its QEMU may take; after that the guest resumes without it. */
const QEMU_TIMEOUT_MS = 10_000;

/**
 * Resumes the guest, then turns log-dirty mode off. May be called any number of times, under the domain's lock.
 * @returns as `Phases.undo`
 */
export async function recoverGuest(
  host: Host,
  found: FoundHold,
  options: CallOptions,
): Promise<{ undone: readonly string[]; failures: readonly string[] }> {
  const domid = toDomid(found.domid);
  if (await isOver(host, found)) {
    removeHold(found);
    return { undone: [], failures: [] };
  }
  const { hold: left, logDirty, type } = found;
  const held = left !== undefined && isHeld(left);
  const phases = new Phases(options);
  const needsQemu = type === 'hvm' && (logDirty || (held && left.stopped));
  let noQemu: unknown;
  await using deviceModel = needsQemu
    ? await reach(host, found, (reason) => {
        noQemu = reason;
      })
    : undefined;
  const hold = held ? GuestHold.adopt(host.hypervisor, domid, left, deviceModel) : undefined;
  planRecordUndo(phases, domid, { close() {}, remove: () => removeHold(found) }, async () =>
    hold?.announce(),
  );
  if (hold !== undefined) {
    planHoldUndo(
      phases,
      left !== undefined && (left.pauses > 0 || left.pending !== undefined) ? 'paused' : 'running',
      domid,
      hold,
    );
    await phases.undoFirst();
  }
  if (logDirty) {
    // Xen's log needs only the domid: opening a guest takes memory, and for PV its tables.
    const ofXen = { stopDirtyLog: () => host.hypervisor.stopDirtyLog(domid) };
    const log = DirtyLog.adopt(ofXen, type === 'hvm' ? (deviceModel ?? unreachable(noQemu)) : undefined);
    planLogUndo(phases, host, domid, log, () => {
      dropTrack(host, found.uuid);
      noteLogOff(found);
    });
  }
  return await phases.undo();
}

/** In place of a QEMU that could not be reached: its log stays on, which is an undo that failed, unless it has ended. */
function unreachable(reason: unknown): Pick<DeviceModel, 'logDirty'> {
  return { logDirty: () => Promise.reject(reason) };
}

/** Connects to the guest's QEMU; what needs none is undone without it. */
async function reach(
  host: Host,
  { domid }: FoundHold,
  failed: (reason: unknown) => void,
): Promise<DeviceModel | undefined> {
  const opening = host.toolstack.openDeviceModel(toDomid(domid), {});
  try {
    const opened = await within(
      opening,
      { timeoutMs: QEMU_TIMEOUT_MS },
      () => new EnvironmentError('QEMU_HANGS', `the QEMU of domain ${domid} does not answer`),
    );
    if (opened === undefined) failed(new EnvironmentError('NO_DEVICE_MODEL', `domain ${domid} has no QEMU`));
    return opened;
  } catch (error) {
    failed(error);
    opening.then(
      (late) => late?.[Symbol.asyncDispose]().then(undefined, () => {}),
      () => {},
    );
    return undefined;
  }
}

/** Recovers disks and files by the journal, and adds what was done to the guest before to the result. */
export async function recoverRest(
  path: string,
  { undone, failures }: { readonly undone: readonly string[]; readonly failures: readonly string[] },
  held: FoundHold,
  body: () => Promise<RecoverResult | undefined>,
): Promise<RecoverResult> {
  let result: RecoverResult | undefined;
  try {
    result = await body();
  } catch (error) {
    if (!(error instanceof XlsnapError)) throw error;
    error.undone = [...undone, ...error.undone];
    error.undoFailures = [...failures, ...error.undoFailures];
    throw error;
  }
  if (failures.length > 0) {
    const error = new RecoverError(
      'NOT_RECOVERED',
      `could not undo everything that a create left of domain ${held.domain}`,
      { hint: 'undo the rest by hand, or fix the cause and run xlsnap recover again' },
    );
    error.undone = [...undone, ...(result?.undone ?? [])];
    error.undoFailures = failures;
    throw error;
  }
  if (result === undefined)
    return { journal: path, kind: 'create', outcome: 'undone', domain: held.domain, undone };
  return { ...result, undone: [...undone, ...result.undone] };
}

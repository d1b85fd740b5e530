/** Ends the tracking of a guest. */
import type { CallOptions } from '../../core/call-options.ts';
import { EnvironmentError } from '../../core/errors.ts';
import type { TrackOffResult } from '../api.ts';
import { findDomain } from '../create/plan.ts';
import { refuseSaved } from '../create/preflight.ts';
import { checkHeld, domainKeys, lockIdentified } from '../domain-lock.ts';
import { DirtyLog } from '../guest/dirty-log.ts';
import { endLog } from '../guest/undo.ts';
import { Phases } from '../phases.ts';
import type { DeviceModel, Host } from '../ports.ts';
import { dropTrack } from './record.ts';

/**
 * Turns a guest's dirty log off, so that its writes cost nothing any more. The next snapshot copies all memory. May be called any
 * number of times, also if the guest is not tracked.
 * @param domain name or domid
 * @throws {DomainError} If there is no such domain; if a create, revert or delete of it is under way (`DOMAIN_BUSY`), or another
 * program saves it (`BEING_SAVED`)
 * @throws {EnvironmentError} If its QEMU cannot be reached: Xen's log is off then, and QEMU's is not
 */
export async function stopTracking(
  host: Host,
  domain: string,
  options: CallOptions = {},
): Promise<TrackOffResult> {
  const phases = new Phases(options);
  await using locked = await lockIdentified(
    phases,
    host.toolstack,
    async () => ({ keys: domainKeys(await findDomain(host, domain)) }),
    'track off',
  );
  const state = await findDomain(host, domain);
  checkHeld(locked.keys, state);
  const { domid, uuid, name, type } = state;
  await refuseSaved(host.toolstack, domid);
  // First: whatever fails then, the next snapshot copies all memory.
  const tracked = dropTrack(host, uuid);
  await using deviceModel =
    type === 'hvm'
      ? await host.toolstack
          .openDeviceModel(domid, await host.toolstack.domainConfig(domid))
          .catch(() => undefined)
      : undefined;
  const ofXen = { stopDirtyLog: () => host.hypervisor.stopDirtyLog(domid) };
  const log = DirtyLog.adopt(ofXen, type === 'hvm' ? (deviceModel ?? unreachable(name)) : undefined);
  const { warning } = await endLog(host, domid, log);
  const warnings = warning === undefined ? [] : [warning];
  return { domain: name, domid, tracked, warnings };
}

/** In place of a QEMU that cannot be reached. */
function unreachable(name: string): Pick<DeviceModel, 'logDirty'> {
  return {
    logDirty: () =>
      Promise.reject(
        new EnvironmentError(
          'NO_DEVICE_MODEL',
          `the QEMU of domain ${name} cannot be reached: its dirty log stays on`,
          {
            hint: 'run the same command again once it can',
          },
        ),
      ),
  };
}

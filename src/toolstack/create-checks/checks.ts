/** Finds what prevents a snapshot of a domain, in its device model and its kernel. */
import { stat } from 'node:fs/promises';
import type { Problem } from '../../core/problem.ts';
import type { GuestType } from '../../core/xen.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { flagOf, textOf } from '../../memfile/libxl-fields.ts';

import type { XenstoreAccess } from '../../xenstore/access.ts';
import { readSuspendFeature } from './suspend-feature.ts';

/**
 * Finds what prevents taking the state of an HVM guest's device model. It can be taken only from a QEMU in
 * dom0 that runs as root, since QEMU gets the path of a file that only root can reach. If the device model is
 * in a stub domain, dom0 may have a QEMU for the domain's disks, which answers too, but has nothing of the
 * machine.
 */
export async function deviceModelObstacles(
  domid: number,
  type: GuestType,
  config: LibxlConfig,
  xenstore: Pick<XenstoreAccess, 'readMaybe'>,
  proc = '/proc',
): Promise<Problem[]> {
  if (type !== 'hvm') return [];
  const build = config['b_info'];
  const image = `/local/domain/${domid}/image`;
  if (
    flagOf(build, 'device_model_stubdomain') === true ||
    ((await xenstore.readMaybe(`${image}/device-model-domid`)) ?? '0') !== '0'
  ) {
    return [
      {
        code: 'STUB_DOMAIN',
        message: "the guest's device model is in a stub domain, whose state cannot be read from here",
        hint: 'set device_model_stubdomain_override=0 in its configuration, then shut it down and start it again',
      },
    ];
  }
  const user = textOf(build, 'device_model_user');
  const restricted = flagOf(build, 'dm_restrict') === true;
  const uid = await ownerOf(await xenstore.readMaybe(`${image}/device-model-pid`), proc);
  const asRoot = uid === undefined ? user === undefined || user === 'root' : uid === 0;
  if (asRoot && !restricted) return [];
  const why = restricted
    ? 'dm_restrict=1'
    : user === undefined
      ? `its user is ${uid}`
      : `device_model_user=${user}`;
  return [
    {
      code: 'DEVICE_MODEL_USER',
      message: `the guest's QEMU does not run as root (${why}), so it cannot write its state where xlsnap reads it`,
      hint: 'remove device_model_user and dm_restrict from its configuration, then shut it down and start it again',
    },
  ];
}

/** Returns the user of a process; `undefined` if it is not known. */
async function ownerOf(pid: string | undefined, proc: string): Promise<number | undefined> {
  if (pid === undefined || !/^[0-9]+$/.test(pid)) return undefined;
  try {
    return (await stat(`${proc}/${pid}`)).uid;
  } catch {
    return undefined;
  }
}

/**
 * QEMU's reasons against a migration that are only about the format of an image: state and images stay on
 * this host.
 */
const OF_FORMATS = / format used by node /;

/**
 * Finds devices whose state QEMU cannot save. QEMU itself does not check that when it is asked for the state
 * alone (migration/savevm.c: qemu_save_device_state): it leaves the device out, or dies.
 * @param reasons QEMU's `blocked-reasons`
 */
export function migrationObstacles(reasons: readonly string[]): Problem[] {
  return reasons
    .filter((reason) => !OF_FORMATS.test(reason))
    .map((reason) => ({
      code: 'DEVICE_NOT_SAVED',
      message: `the guest has a device whose state QEMU cannot save: ${reason}`,
      hint: "remove it from the domain's configuration (device_model_args, usbdevice), then shut it down and start it again",
    }));
}

/** Finds what prevents a guest from suspending on request. */
export async function suspendObstacles(
  domid: number,
  xenstore: Pick<XenstoreAccess, 'readMaybe'>,
): Promise<Problem[]> {
  if ((await readSuspendFeature(xenstore, domid)) !== 'missing') return [];
  return [
    {
      code: 'NO_SUSPEND',
      message:
        'the guest announces which requests it supports, and suspend is not among them: it would keep running, or shut down',
      hint: 'its kernel needs what xl save needs: for Linux, CONFIG_HIBERNATE_CALLBACKS (hibernation)',
    },
  ];
}

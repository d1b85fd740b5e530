/** Finds drives of a QEMU that are not disks of the domain's configuration. */

import type { UnknownDrive } from '../../memfile/manifest.ts';
import type { BlockDevice } from '../../qmp/commands.ts';
import type { ResolvedDisk } from '../qemu/disks.ts';
import { plainPath } from '../qemu/images.ts';

/** QEMU's names of the emulated drives that libxl gives it (tools/libs/light/libxl_dm.c). */
const OF_LIBXL = /^(?:(?:ide|scsi)[0-9]+-hd[0-9]+|ahcidisk-[0-9]+)$/;

/**
 * Returns drives that the guest can write to and that its configuration does not name: from
 * `device_model_args` or `usbdevice`, or attached by QMP. A cfgfile cannot name them, so no snapshot contains
 * them.
 * @param devices all drives, as QEMU reports them
 * @param disks the domain's own disks
 * @param scripted whether a script makes the device of one of its disks, whose path then means nothing
 */
export function foreignDrives(
  devices: readonly BlockDevice[],
  disks: readonly Pick<ResolvedDisk, 'vdev' | 'node' | 'path'>[],
  scripted = false,
): readonly UnknownDrive[] {
  const paths = new Set(disks.flatMap(({ path }) => path ?? []));
  return devices.flatMap(({ device, qdev, inserted }): UnknownDrive[] => {
    if (inserted === undefined || inserted.readOnly) return [];
    const { nodeName, driver, file, backingFiles } = inserted;
    const own =
      disks.some(({ vdev, node }) => node === nodeName || nodeName === `${vdev}-${driver}`) ||
      [file, ...backingFiles].some((name) => paths.has(plainPath(name)));
    if (own || (scripted && OF_LIBXL.test(device))) return [];
    const name = device !== '' ? device : nodeName !== '' ? nodeName : (qdev ?? 'without a name');
    return [{ name, path: plainPath(file) }];
  });
}

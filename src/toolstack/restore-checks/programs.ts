/**
 * Checks whether the other files that a configuration names exist: those for the restore itself, and those
 * for the guest's next boot.
 */
import { constants } from 'node:fs/promises';
import { isAbsolute } from 'node:path';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { domainType, flagOf, recordsOf, textOf } from '../../memfile/libxl-fields.ts';

import { isElsewhere } from './images.ts';
import { isThere, SCRIPTS, scriptObstacle } from './network.ts';

export interface ProgramFindings {
  /** Files without which a restore fails. */
  readonly obstacles: readonly Problem[];
  /** Files that the guest boots from: a restore works without them, the guest's next reboot does not. */
  readonly warnings: readonly string[];
}

/**
 * Checks kernel and ramdisk, firmware, the device model, and the scripts of disks. A restore needs no kernel
 * file, but QEMU opens that of an HVM guest when it starts (tools/libs/light/libxl_dm.c: `-kernel`).
 */
export async function programFindings(
  config: LibxlConfig,
  { scripts = SCRIPTS }: { readonly scripts?: string } = {},
): Promise<ProgramFindings> {
  const obstacles: Problem[] = [];
  const warnings: string[] = [];
  const build = config['b_info'];
  const hvm = domainType(config) === 'hvm';
  for (const key of ['kernel', 'ramdisk'] as const) {
    const path = textOf(build, key);
    if (path === undefined || !isAbsolute(path) || (await isThere(path, constants.R_OK))) continue;
    if (hvm) {
      obstacles.push({
        code: 'KERNEL_GONE',
        message: `the guest's ${key} ${path} no longer exists: its QEMU does not start without it`,
        hint: 'put it back',
      });
    } else {
      warnings.push(`the guest's ${key} ${path} no longer exists: the guest cannot reboot`);
    }
  }
  for (const key of ['system_firmware', 'smbios_firmware', 'acpi_firmware']) {
    const path = textOf(build, 'type.hvm', key);
    if (path === undefined || !isAbsolute(path) || (await isThere(path, constants.R_OK))) continue;
    warnings.push(`the guest's firmware ${path} no longer exists: the guest cannot reboot`);
  }
  const model = textOf(build, 'device_model');
  if (
    model !== undefined &&
    needsQemu(config) &&
    flagOf(build, 'device_model_stubdomain') !== true &&
    !(await isThere(model, constants.X_OK))
  ) {
    obstacles.push({
      code: 'DEVICE_MODEL_GONE',
      message: `the domain's device model ${model} no longer exists, or is not executable`,
      hint: 'install it again, or put a link to another one in its place',
    });
  }
  // Otherwise udev calls them.
  const scripted = flagOf(config, 'c_info', 'run_hotplug_scripts') !== false;
  for (const disk of scripted ? recordsOf(config, 'disks') : []) {
    const script = textOf(disk, 'script');
    if (script === undefined || isElsewhere(disk)) continue;
    const problem = await scriptObstacle(`disk ${textOf(disk, 'vdev') ?? '?'}`, script, scripts);
    if (problem !== undefined) obstacles.push(problem);
  }
  return { obstacles, warnings };
}

/** Returns whether libxl starts a QEMU for the domain, as far as its configuration shows. */
function needsQemu(config: LibxlConfig): boolean {
  if (domainType(config) === 'hvm') return true;
  if (recordsOf(config, 'vfbs').length > 0) return true;
  return recordsOf(config, 'disks').some((disk) => textOf(disk, 'backend') === 'qdisk' && !isElsewhere(disk));
}

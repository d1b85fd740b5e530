/** Checks whether a configuration's network interfaces can be connected again. */

import { access, constants } from 'node:fs/promises';
import { basename, isAbsolute, join } from 'node:path';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { flagOf, recordsOf, textOf } from '../../memfile/libxl-fields.ts';

import { isElsewhere } from './images.ts';

/** Where libxl looks for scripts that are given by name only. */
export const SCRIPTS = '/etc/xen/scripts';
const INTERFACES = '/sys/class/net';

/** Where to look; for tests. */
export interface NetworkPlaces {
  readonly interfaces?: string;
  readonly scripts?: string;
}

/**
 * Checks the bridge of each interface that `vif-bridge` connects, and the script that is to connect it. libxl
 * removes the domain again if a script fails (tools/hotplug/Linux/vif-bridge: "Could not find bridge").
 */
export async function networkObstacles(
  config: LibxlConfig,
  { interfaces = INTERFACES, scripts = SCRIPTS }: NetworkPlaces = {},
): Promise<Problem[]> {
  const obstacles: Problem[] = [];
  // Otherwise udev calls the scripts, and their failure does not fail the restore.
  if (flagOf(config, 'c_info', 'run_hotplug_scripts') === false) return obstacles;
  for (const [at, nic] of recordsOf(config, 'nics').entries()) {
    if (isElsewhere(nic)) continue;
    const which = `network interface ${textOf(nic, 'ifname') ?? at}`;
    const script = textOf(nic, 'script') ?? 'vif-bridge';
    const problem = await scriptObstacle(which, script, scripts);
    if (problem !== undefined) obstacles.push(problem);
    const bridge = textOf(nic, 'bridge');
    if (basename(script) !== 'vif-bridge' || bridge === undefined) continue;
    if (await bridgeExists(bridge, interfaces)) continue;
    obstacles.push({
      code: 'BRIDGE_GONE',
      message: `${which}: there is no bridge ${bridge}`,
      hint: `create it (ip link add ${bridge} type bridge), or give that name to the bridge that took its place`,
    });
  }
  return obstacles;
}

/**
 * Checks that a script that libxl would call exists and can be run. One that is given by name only and is not
 * in the usual place may be in another, which Xen's build decides.
 */
export async function scriptObstacle(
  which: string,
  script: string,
  scripts: string = SCRIPTS,
): Promise<Problem | undefined> {
  const path = isAbsolute(script) ? script : join(scripts, script);
  if (await isThere(path, constants.X_OK)) return undefined;
  const there = await isThere(path, constants.F_OK);
  if (!there && !isAbsolute(script)) return undefined;
  return {
    code: 'SCRIPT_GONE',
    message: `${which}: its script ${path} ${there ? 'is not executable' : 'no longer exists'}`,
    hint: there ? `chmod +x ${path}` : 'put it back',
  };
}

export async function isThere(path: string, mode: number): Promise<boolean> {
  try {
    await access(path, mode);
    return true;
  } catch {
    return false;
  }
}

/** Checks a bridge. vif-bridge takes `ethN` instead of `xenbrN` if only that is a bridge. */
async function bridgeExists(bridge: string, interfaces: string): Promise<boolean> {
  if (bridge.includes('/')) return false;
  if (await isThere(join(interfaces, bridge), constants.F_OK)) return true;
  if (!bridge.startsWith('xenbr')) return false;
  return await isThere(join(interfaces, `eth${bridge.slice('xenbr'.length)}`, 'bridge'), constants.F_OK);
}

/** Checks everything about a restore by libxl that can be known before the domain is destroyed. */

import { readFile } from 'node:fs/promises';
import { toDomid } from '../../core/brand.ts';
import type { Problem } from '../../core/problem.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { domainType, textOf } from '../../memfile/libxl-fields.ts';
import type { Hypervisor, RestoreFacts, RestoreFindings } from '../../snapshot/ports.ts';
import type { XenstoreAccess } from '../../xenstore/access.ts';
import { findQemus } from '../qemu/programs.ts';
import { displayObstacles } from './displays.ts';
import { imageObstacles } from './images.ts';
import { judgeMemory, type MemoryOfHost, pagingBytes } from './memory.ts';
import { networkObstacles } from './network.ts';
import { programFindings } from './programs.ts';

const DOM0 = toDomid(0);

/** What the checks need. */
export interface RestoreWorld {
  readonly hypervisor: Pick<Hypervisor, 'freeMemory' | 'domainState'>;
  readonly xenstore: Pick<XenstoreAccess, 'listMaybe' | 'readMaybe'>;
  /** Whether missing memory is taken from dom0. */
  readonly takesFromDom0: boolean;
}

/** Runs all checks. Changes nothing. */
export async function checkRestore(world: RestoreWorld, facts: RestoreFacts): Promise<RestoreFindings> {
  const { config, disks, replaced } = facts;
  const programs = await programFindings(config);
  const memory = judgeMemory(config, facts.pages, await memoryOfHost(world, replaced));
  const qemus = domainType(config) === 'hvm' ? await findQemus(config) : [];
  return {
    obstacles: [
      ...(await imageObstacles(config, new Set(disks))),
      ...(await networkObstacles(config)),
      ...programs.obstacles,
      ...(await displayObstacles(config, replaced?.config)),
      ...(await poolObstacles(config, world.xenstore)),
      ...(memory.obstacle === undefined ? [] : [memory.obstacle]),
    ],
    memoryRisk: memory.risk,
    warnings: programs.warnings,
    qemus: qemus.map(({ version }) => version),
  };
}

async function memoryOfHost(
  { hypervisor, takesFromDom0 }: RestoreWorld,
  replaced: RestoreFacts['replaced'],
): Promise<MemoryOfHost> {
  const own = replaced === undefined ? 0 : replaced.domain.memoryBytes;
  const tables = replaced?.config === undefined ? 0 : pagingBytes(replaced.config);
  const dom0 = takesFromDom0 ? await hypervisor.domainState(DOM0) : undefined;
  return {
    free: await hypervisor.freeMemory(),
    freed: own + tables,
    ...(dom0 === undefined
      ? {}
      : { dom0: { total: dom0.memoryBytes, available: await availableHere(dom0.memoryBytes) } }),
  };
}

/**
 * Returns the memory of dom0 in bytes that its programs do not need, as its kernel sees it; `otherwise` if
 * the kernel does not say.
 */
export async function availableHere(otherwise: number, meminfo = '/proc/meminfo'): Promise<number> {
  const text = await readFile(meminfo, 'latin1').catch(() => '');
  const [, kib] = /^MemAvailable: *([0-9]+) kB$/m.exec(text) ?? [];
  return kib === undefined ? otherwise : Number(kib) * 1024;
}

/**
 * The pool that Xen starts with. libxl knows its name without xenstore (libxl_utils.c:
 * libxl_cpupoolid_to_name).
 */
const FIRST_POOL: readonly string[] = ['0', 'Pool-0'];

/** Checks that the domain's CPU pool exists, by the names that libxl stores in xenstore. */
export async function poolObstacles(
  config: LibxlConfig,
  xenstore: Pick<XenstoreAccess, 'listMaybe' | 'readMaybe'>,
): Promise<Problem[]> {
  const wanted = textOf(config, 'c_info', 'pool_name');
  if (wanted === undefined || FIRST_POOL.includes(wanted)) return [];
  const names: string[] = [];
  for (const id of await xenstore.listMaybe('/local/pool')) {
    const name = await xenstore.readMaybe(`/local/pool/${id}/name`);
    // libxl takes digits for the pool's number.
    if (wanted === id && name !== undefined) return [];
    if (name !== undefined) names.push(name);
  }
  if (names.includes(wanted)) return [];
  return [
    {
      code: 'CPU_POOL_GONE',
      message: `there is no CPU pool ${wanted}, which the domain was in`,
      hint: `create it (xl cpupool-create); ${names.length === 0 ? 'there is none' : `there are ${names.join(', ')}`}`,
    },
  ];
}

/** Finds out whether and how a domain could be snapshotted, for `xlsnap doctor`. */

import { PAGE_SIZE } from '../../core/brand.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import type { GuestType } from '../../core/xen.ts';
import { isVolume } from '../../memfile/libxl-config.ts';
import { asFinding } from '../findings.ts';
import type { DomainDisk, Host } from '../ports.ts';
import type { FoundStorage } from '../storage/find.ts';
import { type CreateContext, makeCreateContext } from './plan.ts';
import { findLiveObstacles, preflightCreate } from './preflight.ts';

/** Whether and how a disk of a domain could be snapshotted now. */
export interface DiskExamination {
  /** `xvda`, `hda`, … */
  readonly vdev: string;
  /** Absent for an empty drive. */
  readonly path?: string;
  readonly format?: string;
  /** Whether the guest writes to it; what it does not write to needs no snapshot. */
  readonly volume: boolean;
  readonly internal: boolean;
  readonly external: boolean;
  /** What its own storage would take, such as `clone`; absent if the storage cannot, or an internal snapshot can be taken. */
  readonly storage?: string;
  /** What prevents an internal or an external snapshot, or both, or one by the storage. */
  readonly obstacles: readonly Problem[];
}

/** Whether and how a domain could be snapshotted now. */
export interface DomainExamination {
  /** Its name; as it was asked for when there is no such domain. */
  readonly domain: string;
  readonly domid?: number;
  readonly type?: GuestType;
  readonly state?: 'running' | 'paused';
  /** Whether a snapshot could be taken at all. */
  readonly possible: boolean;
  /** Whether one could be taken without a cfgfile: each disk that the guest writes to, inside its image or by its storage. */
  readonly byDefault: boolean;
  /** Whether the domain could run on while its memory is copied. */
  readonly live: boolean;
  readonly disks: readonly DiskExamination[];
  /** What prevents any snapshot. */
  readonly obstacles: readonly Problem[];
  /** What prevents only a live one. */
  readonly liveObstacles: readonly Problem[];
  /** What does not prevent a snapshot, but should be known. */
  readonly warnings: readonly string[];
  /** Version of its QEMU, if it has one. */
  readonly qemu?: string;
}

/**
 * Runs the checks that come before a create, for all ways of it at once. Reads only: the domain is not paused, and nothing
 * is written. The answer lists what prevents it.
 * @param nameOrDomid if there is no such domain, that is an obstacle, too
 * @param options `snapshotDir`: where memory files go without a cfgfile; default: the host's directory
 */
export async function examineDomain(
  host: Host,
  nameOrDomid: string,
  options: { readonly snapshotDir?: string } = {},
): Promise<DomainExamination> {
  const obstacles: Problem[] = [];
  const warnings: string[] = [];
  let qemu: string | undefined;
  const liveObstacles: Problem[] = [];
  let found: Pick<DomainExamination, 'domid' | 'type' | 'state'> = {};
  let domain = nameOrDomid;
  let disks: readonly DiskExamination[] = [];
  await asFinding(obstacles, async () => {
    const context = await makeCreateContext(host, { domain: nameOrDomid, ...options });
    const { plan, config } = context;
    found = { domid: plan.domid, type: plan.type, state: plan.state };
    domain = plan.domain;
    disks = context.disks.map((disk) => examineDisk(disk, context.storages.get(disk.vdev)));
    liveObstacles.push(...(await findLiveObstacles(host, context)));
    await preflightCreate(host, context);
    warnings.push(...context.warnings, ...(await revertWarnings(host, context)));
    qemu = context.qemu;
    // Obstacles to one kind of disk snapshot are listed with the disk.
    const ofDisks = new Set([
      ...context.disks.flatMap((disk) => disk.internal),
      ...[...context.storages.values()].flatMap(({ problems }) => problems),
    ]);
    obstacles.push(...context.findings.filter((finding) => !ofDisks.has(finding)));
    await using deviceModel = await host.toolstack.openDeviceModel(context.domain.domid, config);
    if (deviceModel === undefined && plan.type === 'hvm') {
      obstacles.push({
        code: 'NO_DEVICE_MODEL',
        message: 'it has no QEMU that can be reached',
        hint: 'is its device model still running?',
      });
    }
  });
  const volumes = disks.filter((disk) => disk.volume);
  const free = obstacles.length === 0;
  return omitUndefined({
    domain,
    ...found,
    possible: free && volumes.every((disk) => disk.internal || disk.external || disk.storage !== undefined),
    byDefault: free && volumes.every((disk) => disk.internal || disk.storage !== undefined),
    live: free && liveObstacles.length === 0,
    disks,
    obstacles,
    liveObstacles,
    warnings,
    qemu,
  });
}

/**
 * Finds what would make a revert of the domain fail right now, such as a missing ISO image or
 * bridge. It does not prevent the snapshot.
 */
async function revertWarnings(host: Host, { domain, config }: CreateContext): Promise<readonly string[]> {
  const findings = await host.toolstack.restoreFindings?.({
    config,
    replacesConfig: false,
    pages: Math.floor(domain.memoryBytes / PAGE_SIZE),
    disks: [],
    replaced: { domain, config },
  });
  if (findings === undefined) return [];
  return [
    ...findings.obstacles.map(({ message }) => `a revert would fail: ${message}`),
    ...(findings.memoryRisk === undefined ? [] : [findings.memoryRisk]),
    ...findings.warnings,
  ];
}

function examineDisk(disk: DomainDisk, found: FoundStorage | undefined): DiskExamination {
  const storage = found?.problems.length === 0 ? found.storage.noun : undefined;
  // What its storage can do needs no QEMU, and what its storage cannot do says more than QEMU.
  const obstacles = storage === undefined ? [...disk.external, ...(found?.problems ?? disk.internal)] : [];
  return omitUndefined({
    vdev: disk.vdev,
    path: disk.path,
    format: disk.format,
    volume: isVolume(disk),
    internal: disk.internal.length === 0,
    external: disk.external.length === 0,
    storage,
    obstacles: obstacles.filter(
      ({ code }, at) => obstacles.findIndex((obstacle) => obstacle.code === code) === at,
    ),
  });
}

import { isRecord } from '../core/guards.ts';
import { asFinding, isVolume, makeCreateContext } from './plan.ts';
import type { DomainDisk, GuestType, Host, LibxlConfig, Obstacle } from './ports.ts';
import { preflightCreate } from './preflight.ts';

/** How a disk of a domain could be snapshotted now. */
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
  /** What stands against an internal or an external snapshot, or both. */
  readonly obstacles: readonly Obstacle[];
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
  /** Whether one could be taken without a cfgfile: each disk that the guest writes to, inside its image. */
  readonly byDefault: boolean;
  /** Whether the domain could run on while its memory is copied. */
  readonly live: boolean;
  readonly disks: readonly DiskExamination[];
  /** What stands against any snapshot. */
  readonly obstacles: readonly Obstacle[];
  /** What stands against a live one only. */
  readonly liveObstacles: readonly Obstacle[];
}

/**
 * Runs the checks that come before a create, for all ways of it at once. Reads only: the domain is not paused, and nothing
 * is written. What stands against it is in the answer.
 * @param nameOrDomid that there is no such domain is an obstacle, too
 * @param options `snapshotDir`: where memory files go without a cfgfile, if not to the usual place
 */
export async function examineDomain(
  host: Host,
  nameOrDomid: string,
  options: { readonly snapshotDir?: string } = {},
): Promise<DomainExamination> {
  const obstacles: Obstacle[] = [];
  const liveObstacles: Obstacle[] = [];
  let found: Pick<DomainExamination, 'domid' | 'type' | 'state'> = {};
  let domain = nameOrDomid;
  let disks: readonly DiskExamination[] = [];
  await asFinding(obstacles, async () => {
    const context = await makeCreateContext(host, { domain: nameOrDomid, ...options });
    const { plan, config } = context;
    found = { domid: plan.domid, type: plan.type, state: plan.state };
    domain = plan.domain;
    disks = context.disks.map(examineDisk);
    liveObstacles.push(...againstLive(config));
    const ofHost = await host.hypervisor.liveObstacle(plan.type);
    if (ofHost !== undefined) liveObstacles.push(ofHost);
    await preflightCreate(host, context);
    // Those of one way of snapshotting a disk are with the disk.
    const ofDisks = new Set(context.disks.flatMap((disk) => disk.internal));
    obstacles.push(...context.findings.filter((finding) => !ofDisks.has(finding)));
    await using deviceModel = await host.toolstack.openDeviceModel(context.domain.domid, config);
    if (deviceModel === undefined && plan.type === 'hvm') {
      obstacles.push({
        code: 'NO_DEVICE_MODEL',
        message: 'it has no QEMU to talk to',
        hint: 'is its device model still running?',
      });
    }
  });
  const volumes = disks.filter((disk) => disk.volume);
  const free = obstacles.length === 0;
  return {
    domain,
    ...found,
    possible: free && volumes.every((disk) => disk.internal || disk.external),
    byDefault: free && volumes.every((disk) => disk.internal),
    live: free && liveObstacles.length === 0,
    disks,
    obstacles,
    liveObstacles,
  };
}

function examineDisk(disk: DomainDisk): DiskExamination {
  const obstacles = [...disk.external, ...disk.internal];
  return {
    vdev: disk.vdev,
    ...(disk.path === undefined ? {} : { path: disk.path }),
    ...(disk.format === undefined ? {} : { format: disk.format }),
    volume: isVolume(disk),
    internal: disk.internal.length === 0,
    external: disk.external.length === 0,
    obstacles: obstacles.filter(({ code }, at) => obstacles.findIndex((one) => one.code === code) === at),
  };
}

/** Xen refuses log-dirty mode to a domain that uses the IOMMU (xen/arch/x86/mm/paging.c). */
function againstLive(config: LibxlConfig): Obstacle[] {
  const { pcidevs, c_info: info } = config;
  const passthrough = isRecord(info) ? info['passthrough'] : undefined;
  const uses = (Array.isArray(pcidevs) && pcidevs.length > 0) || IOMMU_MODES.includes(String(passthrough));
  return uses
    ? [
        {
          code: 'LIVE_IOMMU',
          message: 'it has PCI devices, or may have them: Xen then does not note which pages are written',
          hint: 'leave --live out',
        },
      ]
    : [];
}

/** Values of libxl_passthrough (libxl_types.idl) with which a domain uses the IOMMU. */
const IOMMU_MODES: readonly string[] = ['enabled', 'sync_pt', 'share_pt'];

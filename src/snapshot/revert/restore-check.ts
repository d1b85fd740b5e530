/** Checks whether the restore of a revert would succeed, before anything is destroyed. */

import type { Domid } from '../../core/brand.ts';
import { describeError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import { type LibxlConfig, withImages } from '../../memfile/libxl-config.ts';
import type { Manifest } from '../../memfile/manifest.ts';
import { roomText, withRoomFor } from '../../memfile/memory-target.ts';
import type { MemoryFacts } from '../../memfile/verify.ts';
import type { RevertDisk } from '../api.ts';
import type { DomainState, Host } from '../ports.ts';
import type { Risk } from '../risks.ts';

/** What is known of the revert so far. */
export interface RestoreSubject {
  readonly facts: MemoryFacts;
  readonly manifest: Manifest | undefined;
  readonly disks: readonly RevertDisk[];
  /** The domain that will be destroyed, and its configuration now. */
  readonly running: DomainState | undefined;
  readonly current: LibxlConfig | undefined;
}

/** What the restore is to be given. */
export interface RestorePlan {
  /** The configuration, when it is not the one in the memory file. */
  readonly config: LibxlConfig | undefined;
  readonly warnings: readonly string[];
}

/**
 * Adds to `findings` what would make the restore fail, and to `risks` what might.
 * @throws {XlsnapError} If the toolstack cannot look at the host
 */
export async function checkRestore(
  host: Host,
  { facts, manifest, disks, running, current }: RestoreSubject,
  findings: Problem[],
  risks: Risk[],
): Promise<RestorePlan> {
  const warnings: string[] = [];
  const overlays = disks.flatMap((disk) =>
    disk.kind === 'external' ? [{ vdev: disk.vdev, path: disk.overlay, format: 'qcow2' }] : [],
  );
  let config = overlays.length === 0 ? undefined : withImages(facts.config, overlays);
  const pages = facts.pages ?? 0;
  const roomy = withRoomFor(config ?? facts.config, pages);
  if (roomy !== undefined) {
    config = roomy;
    warnings.push(
      `${roomText(facts.config, pages)}: the restored domain has that as its target; set it again with xl mem-set`,
    );
  }
  for (const { name, path } of manifest?.unknownDrives ?? []) {
    risks.push({
      risk: 'disk-uncovered',
      message: `the guest wrote to ${path} (QEMU's drive ${name}), which is not part of the snapshot: the memory would not match its newer data`,
    });
  }
  const found = await host.toolstack.restoreFindings?.({
    config: config ?? facts.config,
    replacesConfig: config !== undefined,
    pages,
    disks: disks.map(({ vdev }) => vdev),
    replaced: running === undefined ? undefined : { domain: running, config: current },
  });
  if (found === undefined) return { config, warnings };
  findings.push(...found.obstacles);
  if (found.memoryRisk !== undefined) risks.push({ risk: 'memory-low', message: found.memoryRisk });
  const then = manifest?.type === 'hvm' ? manifest.qemu : undefined;
  // Its stable releases accept each other's state.
  if (
    then !== undefined &&
    found.qemus.length > 0 &&
    !found.qemus.some((now) => series(now) === series(then))
  ) {
    risks.push({
      risk: 'qemu-changed',
      message: `the snapshot was taken with QEMU ${then}; a restore would start ${found.qemus.join(' or ')}`,
    });
  }
  return { config, warnings: [...warnings, ...found.warnings] };
}

/** `10.0` of `10.0.13`. */
function series(version: string): string {
  return version.split('.').slice(0, 2).join('.');
}

/** Returns a warning for each disk of a restored domain that nobody serves. Never rejects, since the domain exists. */
export async function warnOfUnconnected(host: Host, domid: Domid): Promise<readonly string[]> {
  try {
    const stuck = (await host.toolstack.unconnectedDisks?.(domid)) ?? [];
    return stuck.map(
      ({ vdev, path }) =>
        `disk ${vdev}${path === undefined ? '' : ` (${path})`} did not come up: the guest was restored without it; the log of its QEMU in /var/log/xen says why`,
    );
  } catch (error) {
    return [`cannot tell whether all disks came up: ${describeError(error)}`];
  }
}

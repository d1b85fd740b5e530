/** The plan of a create. */

import type { DiskRequest } from '../../config/config.ts';
import { printConfig } from '../../config/print.ts';
import { DomainError, UsageError } from '../../core/errors.ts';
import { nearest } from '../../core/nearest.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { isVolume, type LibxlConfig } from '../../memfile/libxl-config.ts';
import type { SnapshotDisk } from '../../memfile/manifest.ts';
import { configPathOf, manifestPathOf } from '../../memfile/names.ts';
import type { CreateRequest, MemorySink, PrecopyLimits, SnapshotPlan, Tuning } from '../api.ts';
import { domainKeys } from '../domain-lock.ts';
import { asFinding } from '../findings.ts';
import { checkNames, defaultMemoryPath, exampleOverlay, nameFromTime, snapshotDirOf } from '../naming.ts';
import { isStream } from '../output/stream.ts';
import type { DomainDisk, DomainState, Host } from '../ports.ts';
import { revertCommand } from '../revert/command.ts';
import { relatedReverts } from '../revert/related.ts';
import { type FoundStorage, findStorage, storeProblems } from '../storage/find.ts';
import { Look } from '../storage/look.ts';
import { planTracking } from '../track/plan.ts';

/** How long a guest may take to suspend; the same as libxl. */
const DEFAULT_SUSPEND_TIMEOUT_MS = 60_000;

/** Rounds of a live snapshot: the same as libxc, and the maximum. */
const DEFAULT_MAX_ROUNDS = 5;
const MAX_ROUNDS = 49;

/** Everything that a create finds out before it changes anything. */
export interface CreateContext {
  readonly plan: SnapshotPlan;
  readonly domain: DomainState;
  readonly config: LibxlConfig;
  readonly disks: readonly DomainDisk[];
  /** The storages that can, or could, snapshot disks which QEMU cannot snapshot inside their images; by vdev. */
  readonly storages: ReadonlyMap<string, FoundStorage>;
  /** Has storages asked each question once. */
  readonly look: Look;
  /** The cfgfile for the revert. */
  readonly configText: string;
  readonly tuning: Tuning | undefined;
  readonly sink: MemorySink | undefined;
  /** The memory file, or where it would be if it were not a stream: the journal is beside it. */
  readonly journalBase: string;
  /** Version of the domain's QEMU, if it has one. */
  readonly qemu: string | undefined;
  /** What prevents the plan so far; preflight adds to it. */
  readonly findings: Problem[];
  /** Whether an earlier memory file may be the base of this one. */
  readonly mayClone: boolean;
  /** The plan's warnings; preflight adds to them. */
  readonly warnings: string[];
}

/**
 * Finds the domain called `nameOrDomid`, whatever its state: that of another create is suspended, for example.
 * @throws {DomainError} If there is none
 */
export async function findDomain(host: Host, nameOrDomid: string): Promise<DomainState> {
  const domid = await host.toolstack.findDomain(nameOrDomid);
  const state = domid === undefined ? undefined : await host.hypervisor.domainState(domid);
  if (state !== undefined) return state;
  const named = /^\d+$/.test(nameOrDomid) ? await host.toolstack.findByName(nameOrDomid) : undefined;
  throw new DomainError('DOMAIN_NOT_FOUND', `there is no domain ${nameOrDomid}`, {
    hint:
      named === undefined
        ? await hintAtDomains(host, nameOrDomid)
        : `a number is a domid, as for xl; the domain of that name has domid ${named}: use that`,
  });
}

async function hintAtDomains({ toolstack }: Host, name: string): Promise<string> {
  const near = nearest(name, (await toolstack.domainNames?.()) ?? []);
  return `${near === undefined ? '' : `did you mean ${near}? `}xl list shows the domains`;
}

/**
 * Finds the running or paused domain called `nameOrDomid`.
 * @throws {DomainError} If there is none, or it is dying or shut down
 */
export async function findLiveDomain(host: Host, nameOrDomid: string): Promise<DomainState> {
  const state = await findDomain(host, nameOrDomid);
  if (state.dying || state.shutdown !== undefined) {
    const how = state.dying ? 'is dying' : `is shut down (${state.shutdown})`;
    throw new DomainError('DOMAIN_NOT_RUNNING', `domain ${nameOrDomid} ${how}`, {
      domid: state.domid,
      hint: 'only a running or paused domain can be snapshotted',
    });
  }
  return state;
}

/**
 * Makes one plan of the request, the cfgfile and the domain. Changes nothing.
 * @throws {UsageError} If the request is wrong
 * @throws {DomainError} If there is no such domain. What preflight can collect is in `findings` instead
 */
export async function makeCreateContext(
  host: Host,
  request: CreateRequest,
  now: Date = new Date(),
): Promise<CreateContext> {
  const precopy = precopyLimits(request);
  checkNames(request.config?.name ?? request.name, request.config?.memoryPath);
  const domain = await findLiveDomain(host, request.domain);
  if (domain.domid === 0) {
    throw new DomainError('DOMAIN_NOT_FOUND', 'dom0 cannot be snapshotted', { domid: 0 });
  }
  const config = await host.toolstack.domainConfig(domain.domid);
  const disks = await host.toolstack.disks(domain.domid, config);
  const found = await host.toolstack.createFindings?.(domain, config);
  const findings: Problem[] = [...(found?.obstacles ?? [])];
  const unknownDrives = found?.unknownDrives ?? [];
  const name = request.config?.name ?? request.name ?? nameFromTime(now);
  const look = new Look();
  const storages = await findStorages(host, disks, findings, look);
  const warnings: string[] = [];
  const wanted = wantedDisks(request, disks);
  const chosen = await chooseDisks(wanted, name, { disks, storages, look, findings, warnings });
  const uncovered = disks
    .filter((disk) => isVolume(disk) && !wanted.some(({ target }) => target === disk.vdev))
    .map((disk) => disk.vdev);
  for (const vdev of uncovered) {
    warnings.push(
      `disk ${vdev} is writable and not part of the snapshot: it keeps changing, and a revert will need --accept disk-uncovered`,
    );
  }
  for (const { name: drive, path } of unknownDrives) {
    warnings.push(
      `the guest writes to ${path} (QEMU's drive ${drive}), which its configuration does not name: it is not part of the ` +
        'snapshot and keeps changing, and a revert will need --accept disk-uncovered',
    );
  }
  const images = disks.flatMap(({ path }) => (path === undefined ? [] : [path]));
  const subject = { keys: domainKeys(domain), images };
  for (const { path } of await relatedReverts(snapshotDirOf(host), subject, (text) => warnings.push(text))) {
    warnings.push(
      'a revert of this domain, or of one of its images, was killed or is still running: its disks may be from different times; ' +
        `xlsnap recover ${shellQuote(path)} says more`,
    );
  }
  const snapshotDir = request.snapshotDir ?? snapshotDirOf(host);
  const memoryPath = memoryPathOf(request, snapshotDir, domain, name);
  const stream = request.sink !== undefined || (await isStream(memoryPath));
  const target = { memoryPath, stream };
  const tracking = await planTracking(host, request, domain, target, (text) => warnings.push(text));
  const plan: SnapshotPlan = omitUndefined({
    name,
    description: request.config?.description ?? '',
    domid: domain.domid,
    uuid: domain.uuid,
    domain: domain.name,
    type: domain.type,
    live: precopy !== undefined,
    tracking,
    precopy,
    state: domain.paused ? ('paused' as const) : ('running' as const),
    memoryPath,
    stream,
    configPath: stream ? undefined : configPathOf(memoryPath),
    manifestPath: stream ? undefined : manifestPathOf(memoryPath),
    memoryBytes: domain.memoryBytes,
    disks: chosen,
    uncovered,
    unknownDrives,
    suspendTimeoutMs: request.suspendTimeoutMs ?? DEFAULT_SUSPEND_TIMEOUT_MS,
    sync: request.sync ?? true,
    warnings,
  });
  let configText = '';
  await asFinding(findings, async () => {
    if (!stream) configText = revertConfig(plan);
  });
  const journalBase = stream ? defaultMemoryPath(snapshotDir, domain.uuid, name) : memoryPath;
  const { tuning, sink } = request;
  return {
    plan,
    domain,
    config,
    disks,
    storages,
    look,
    configText,
    tuning,
    sink,
    journalBase,
    qemu: found?.qemu,
    findings,
    mayClone: precopy !== undefined && !stream && request.track !== false,
    warnings,
  };
}

/**
 * Returns where the memory goes; `-` for a sink.
 * @throws {UsageError} If there are both a sink and a `memory_path`
 */
function memoryPathOf(
  { config, sink }: CreateRequest,
  snapshotDir: string,
  domain: DomainState,
  name: string,
): string {
  if (sink === undefined) {
    return config?.memoryPath ?? defaultMemoryPath(snapshotDir, domain.uuid, name);
  }
  if (config?.memoryPath !== undefined) {
    throw new UsageError('SINK', `both a sink and a memory_path are given: ${config.memoryPath}`, {
      hint: 'omit one of them',
    });
  }
  return '-';
}

/**
 * Returns the limits of a live create; `undefined` if it is not live.
 * @throws {UsageError} If they are out of range, or it is not live
 */
function precopyLimits(request: CreateRequest): PrecopyLimits | undefined {
  const { live = false, maxRounds, targetDowntimeMs, maxDowntimeMs } = request;
  if (!live) {
    if ((maxRounds ?? targetDowntimeMs ?? maxDowntimeMs) === undefined) return undefined;
    throw new UsageError('LIVE_ONLY', 'limits on rounds and downtime are only for live snapshots', {
      hint: 'add --live, or omit --max-rounds, --target-downtime and --max-downtime',
    });
  }
  const rounds = maxRounds ?? DEFAULT_MAX_ROUNDS;
  if (!Number.isInteger(rounds) || rounds < 1 || rounds > MAX_ROUNDS) {
    throw new UsageError('MAX_ROUNDS', `${rounds} rounds: expected 1 to ${MAX_ROUNDS}`);
  }
  for (const ms of [targetDowntimeMs, maxDowntimeMs]) {
    if (ms !== undefined && !(ms >= 0)) throw new UsageError('DOWNTIME', `a downtime of ${ms} ms`);
  }
  return omitUndefined({ maxRounds: rounds, targetDowntimeMs, maxDowntimeMs });
}

/** @throws {ConfigError} If no cfgfile can express it, such as a path with a comma */
function revertConfig(plan: SnapshotPlan): string {
  return printConfig(
    {
      name: plan.name,
      description: plan.description === '' ? undefined : plan.description,
      memoryPath: plan.memoryPath,
      // Where a storage has its snapshot is in the manifest.
      disks: plan.disks.map((disk) =>
        disk.kind === 'external'
          ? { kind: 'external', target: disk.vdev, path: disk.overlay, format: 'qcow2' }
          : { kind: 'internal', target: disk.vdev },
      ),
    },
    `Snapshot of domain ${plan.domain}, for: ${revertCommand({ domain: plan.domain, config: { source: plan.configPath ?? '' } })}`,
  );
}

/** Finds the storages of the disks that cannot be snapshotted inside a qcow2 image. */
async function findStorages(
  host: Host,
  disks: readonly DomainDisk[],
  findings: Problem[],
  look: Look,
): Promise<ReadonlyMap<string, FoundStorage>> {
  const storages = new Map<string, FoundStorage>();
  for (const disk of disks) {
    if (disk.internal.length === 0) continue;
    await asFinding(findings, async () => {
      const found = await findStorage(host, disk, look);
      if (found === undefined) return;
      const problems = found.problems.map((problem) => withOverlayHint(problem, disk));
      storages.set(disk.vdev, { ...found, problems });
    });
  }
  return storages;
}

interface Choice {
  readonly disks: readonly DomainDisk[];
  readonly storages: CreateContext['storages'];
  readonly look: Look;
  readonly findings: Problem[];
  readonly warnings: string[];
}

/** The disks that the snapshot is to have: those of the cfgfile, or all that the guest writes to. */
function wantedDisks({ config }: CreateRequest, disks: readonly DomainDisk[]): readonly DiskRequest[] {
  return config?.disks ?? disks.filter(isVolume).map(({ vdev }) => ({ kind: 'internal', target: vdev }));
}

/** Chooses how each disk is snapshotted; what prevents it is added to the findings. */
async function chooseDisks(
  wanted: readonly DiskRequest[],
  name: string,
  { disks, storages, look, findings, warnings }: Choice,
): Promise<readonly SnapshotDisk[]> {
  const chosen: SnapshotDisk[] = [];
  for (const asked of wanted) {
    const disk = disks.find((candidate) => candidate.vdev === asked.target);
    if (disk?.path === undefined || disk.format === undefined) {
      const known = disks.map((candidate) => candidate.vdev).join(', ');
      findings.push({
        code: 'NO_SUCH_DISK',
        message: `disk ${asked.target}: the domain has ${disk === undefined ? 'no such disk' : 'no image in it'}`,
        hint: known === '' ? 'it has no disks' : `its disks are ${known}`,
      });
      continue;
    }
    const { vdev, path: image, format } = disk;
    const cow = asked.kind === 'internal' ? asked.cow : undefined;
    if (asked.kind === 'external') {
      findings.push(...disk.external);
      chosen.push({ kind: 'external', vdev, base: image, baseFormat: format, overlay: asked.path });
      continue;
    }
    const found = storages.get(vdev);
    if (found === undefined || disk.place === undefined) {
      findings.push(...(asked.kind === 'clone' ? [notCloned(disk)] : disk.internal));
      if (disk.internal.length === 0) findings.push(...storeProblems(vdev, cow));
      if (asked.kind === 'internal') chosen.push({ kind: 'internal', vdev, image, tag: name });
      continue;
    }
    findings.push(...found.problems);
    if (found.problems.length > 0) continue;
    const path = asked.kind === 'clone' ? asked.path : undefined;
    const planned = await found.storage.plan(disk.place, { vdev, name, path, cow }, look);
    findings.push(...planned.problems);
    warnings.push(...(planned.warnings ?? []));
    chosen.push(planned.disk);
  }
  return chosen;
}

/** Adds to what prevents a snapshot in a disk's own storage that QEMU can put an overlay on the disk, if it can. */
function withOverlayHint(problem: Problem, { vdev, path, external }: DomainDisk): Problem {
  if (path === undefined || external.length > 0) return problem;
  const overlay = `take an external one: disks=['${exampleOverlay(path)},qcow2,${vdev}']`;
  return { ...problem, hint: problem.hint === undefined ? overlay : `${overlay}; or ${problem.hint}` };
}

/** Says that a disk is nothing that could be cloned. */
function notCloned({ vdev, path, format }: DomainDisk): Problem {
  return {
    code: 'NOT_A_RAW_FILE',
    message: `disk ${vdev}: ${path} (${format}) cannot be cloned: it is not a raw file that dom0 serves`,
    hint: `for a snapshot in the disk's own storage write ',,${vdev}'; for an overlay on it, '/path/of/overlay.qcow2,qcow2,${vdev}'`,
  };
}

/** The plan of a revert, with all its checks. */

import { dirname } from 'node:path';
import type { CallOptions } from '../../core/call-options.ts';
import { RiskError } from '../../core/errors.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { findDamage } from '../../memfile/compare-checksums.ts';
import { configChanges, describeChanges } from '../../memfile/config-changes.ts';
import { configDisks, isVolume, type LibxlConfig } from '../../memfile/libxl-config.ts';
import {
  type DiskIdentity,
  type Manifest,
  type QemuDisk,
  readManifest,
  type StorageDisk,
} from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import { type MemoryFacts, readMemoryFacts } from '../../memfile/verify.ts';
import type { RevertDisk, RevertPlan, RevertRequest } from '../api.ts';
import { findDeletes } from '../delete/find.ts';
import { checkHeld, domainKeys, restartedError } from '../domain-lock.ts';
import { throwFindings } from '../findings.ts';
import { explainGone } from '../guest/gone.ts';
import { truePath } from '../images/chain.ts';
import { findChanged, infoOf } from '../images/identity.ts';
import { snapshotDirOf } from '../naming.ts';
import type { DomainState, Host, ImageHost } from '../ports.ts';
import { listRisks, type Risk } from '../risks.ts';
import { sharedProblems } from '../storage/find.ts';
import { revertCommand } from './command.ts';
import { findLaterSnapshots, findOverlaysInUse, type KnownSnapshot } from './later-snapshots.ts';
import { planDisk, type WantedDisk, wantedDisks } from './plan-disks.ts';
import { checkRestore } from './restore-check.ts';
import { findTarget, type RevertTarget } from './target.ts';
import { findOtherUser } from './users.ts';

/** Maximum number of configuration changes in the message; the data has all of them. */
const MAX_CHANGES = 5;

/** Everything that a revert finds out before it destroys anything. */
export interface RevertContext {
  readonly plan: RevertPlan;
  /** The domain that will be destroyed. */
  readonly running: DomainState | undefined;
  /** Reverts that were killed, or are under way, of this domain or to its images. */
  readonly journals: RevertTarget['journals'];
  /** The configuration to restore with, when it is not the one in the memory file. */
  readonly config: LibxlConfig | undefined;
}

/**
 * Makes one plan of the cfgfile, the memory file, the manifest, the images and the running domain, and checks everything
 * that can be checked. Changes nothing.
 * @param held what is locked, and the domid of a domain that a killed revert may only have begun to make: it need not have
 * a configuration
 * @throws {PreflightError} If something prevents the revert
 * @throws {RiskError} If it is risky, unless `force`
 * @throws {UsageError} If the request makes no sense
 * @throws {DomainError} If the domain is in use by another operation, or restarts in the meantime
 * @throws {StreamError} If the memory file is damaged
 * @throws {ManifestError} If the manifest is damaged
 */
export async function makeRevertContext(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
  held?: { readonly keys: readonly string[]; readonly halfBuilt: number | undefined },
): Promise<RevertContext> {
  const target = await findTarget(host, request, (text) => options.reporter?.log('warning', text));
  const { running } = target;
  if (held !== undefined) checkHeld(held.keys, running);
  try {
    return await checkTarget(host, request, target, options, held?.halfBuilt);
  } catch (error) {
    // Its next life has the images open by now, which is not what prevents the revert.
    throw running === undefined || running.domid === held?.halfBuilt
      ? error
      : await explainGone(host, running.domid, error, (cause) => restartedError(running, cause));
  }
}

async function checkTarget(
  host: Host,
  request: RevertRequest,
  { memoryPath, stored, running, journals }: RevertTarget,
  options: CallOptions,
  halfBuilt: number | undefined,
): Promise<RevertContext> {
  const facts = await readMemoryFacts(memoryPath, options);
  const manifest = await readManifest(manifestPathOf(memoryPath));
  const findings: Problem[] = [];
  const risks: Risk[] = [];
  if (manifest !== undefined) findings.push(...(await checkMemory(host, memoryPath, manifest, options)));
  checkManifest(manifest, memoryPath, risks);
  const name = request.config.name ?? manifest?.name ?? '';
  const wanted = wantedDisks(request, name, facts.config, manifest);
  findings.push(
    ...(await unfinishedMerges(host, memoryPath, [stored.uuid, stored.name, ...domainKeys(running)])),
  );
  const current = await currentConfig(host, running, halfBuilt);
  const disks: RevertDisk[] = [];
  const overlayPaths = new Set<string>();
  for (const disk of wanted) {
    const resolved = await checkDisk(host, disk, current, manifest, { findings, risks });
    if (resolved === undefined) continue;
    if (resolved.kind === 'external') {
      const path = await truePath(resolved.overlay);
      if (overlayPaths.has(path)) {
        findings.push({
          code: 'PATH_TWICE',
          message: `${resolved.overlay} would be the overlay of two disks`,
        });
      }
      overlayPaths.add(path);
    }
    const user = await findOtherUser(host, resolved, running);
    if (user !== undefined) findings.push(user);
    disks.push(resolved);
  }
  findings.push(...(await sharedProblems(host, storedDisks(disks), 'revert')));
  for (const risk of await findLaterSnapshots(host, memoryPath, disks)) addRisk(risks, risk);
  risks.push(...uncoveredDisks(facts.config, wanted));
  await checkRunning(host, current, facts, risks);
  const { config, warnings } = await checkRestore(
    host,
    { facts, manifest, disks, running, current },
    findings,
    risks,
  );
  throwFindings(findings, running?.domid);
  const state = request.running === true ? 'running' : (manifest?.state ?? 'running');
  const plan: RevertPlan = {
    name,
    domain: stored.name,
    uuid: stored.uuid,
    ...(manifest === undefined ? {} : { created: manifest.created }),
    domid: running?.domid,
    memoryPath,
    state,
    disks,
    risks,
    warnings,
  };
  refuseRisks(plan, request);
  return {
    plan,
    running,
    journals,
    config,
  };
}

/**
 * Throws the risks that the request does not accept.
 * @throws {RiskError} If there are any
 */
function refuseRisks(plan: RevertPlan, request: RevertRequest): void {
  const { force, accept = [] } = request;
  const refused = force === true ? [] : plan.risks.filter(({ risk }) => !accept.includes(risk));
  if (refused.length === 0) return;
  const names = refused.map(({ risk }) => risk);
  const command = revertCommand({ ...request, accept: [...new Set([...accept, ...names])] });
  throw new RiskError('RISKY', `this revert is risky:\n${listRisks(refused)}`, {
    hint: 'nothing has been changed; --force accepts every risk, --accept only those it names',
    data: { risks: refused, command, plan },
    domid: plan.domid,
  });
}

/** Deletes of the domain's snapshots that were killed while they merged an overlay: its base is half written. */
async function unfinishedMerges(
  host: Host,
  memoryPath: string,
  keys: readonly string[],
): Promise<readonly Problem[]> {
  const top = snapshotDirOf(host);
  const deletes = await findDeletes([top, dirname(memoryPath)], [top]);
  return deletes
    .filter(({ head, steps }) => steps.length > 0 && head.keys.some((key) => keys.includes(key)))
    .map(({ head }) => ({
      code: 'DELETE_UNFINISHED',
      message: `a delete of snapshot "${head.name}" was killed while it merged an overlay`,
      hint: `xlsnap recover ${shellQuote(head.memoryPath)} finishes it`,
    }));
}

async function currentConfig(
  host: Host,
  running: DomainState | undefined,
  halfBuilt: number | undefined,
): Promise<LibxlConfig | undefined> {
  if (running === undefined) return undefined;
  try {
    return await host.toolstack.domainConfig(running.domid);
  } catch (error) {
    if (running.domid === halfBuilt) return undefined;
    throw error;
  }
}

/** Compares the memory file with its checksums; returns what is wrong with it. */
async function checkMemory(
  { extents, xxh3 }: Host,
  path: string,
  manifest: Manifest,
  options: CallOptions,
): Promise<readonly Problem[]> {
  const damage = await findDamage(path, manifest, { ...options, extents, xxh3 });
  return damage.map(({ code, message, hint }) => ({
    code,
    message: code === 'CHECKSUM' ? `${path}: ${message}` : message,
    hint,
  }));
}

function checkManifest(manifest: Manifest | undefined, memoryPath: string, risks: Risk[]): void {
  if (manifest !== undefined) return;
  const path = manifestPathOf(memoryPath);
  risks.push({
    risk: 'no-manifest',
    message: `there is no manifest ${path}: neither the disks nor the state (assumed to be running) can be checked`,
  });
}

function uncoveredDisks(config: LibxlConfig, wanted: readonly WantedDisk[]): readonly Risk[] {
  return configDisks(config).flatMap((disk): Risk[] => {
    if (!isVolume(disk) || wanted.some(({ vdev }) => vdev === disk.vdev)) return [];
    const message = `disk ${disk.vdev} is not part of the snapshot: the memory would not match its newer data`;
    return [{ risk: 'disk-uncovered', message, vdev: disk.vdev }];
  });
}

/**
 * Makes the checks of a snapshot's disks that need no Xen: what a revert by the cfgfile that was written with it would find,
 * the domain being down. Changes nothing.
 * @param known the other snapshots; its own is ignored
 * @throws {DiskError} If an image cannot be read
 */
export async function checkDisksAtRest(
  host: ImageHost,
  snapshot: { readonly memoryPath: string; readonly config: LibxlConfig; readonly manifest: Manifest },
  known: readonly KnownSnapshot[],
): Promise<{ readonly findings: readonly Problem[]; readonly risks: readonly Risk[] }> {
  const { memoryPath, config, manifest } = snapshot;
  const findings: Problem[] = [];
  const risks: Risk[] = [];
  const wanted = wantedDisks({ config: {} }, manifest.name, config, manifest);
  const disks: RevertDisk[] = [];
  for (const disk of wanted) {
    const resolved = await checkDisk(host, disk, undefined, manifest, { findings, risks });
    if (resolved !== undefined) disks.push(resolved);
  }
  findings.push(...(await sharedProblems(host, storedDisks(disks), 'revert')));
  const others = known.filter((other) => other.memoryPath !== memoryPath);
  for (const risk of await findOverlaysInUse(host, disks)) addRisk(risks, risk);
  for (const risk of await findLaterSnapshots(host, memoryPath, disks, others)) addRisk(risks, risk);
  risks.push(...uncoveredDisks(config, wanted));
  return { findings, risks };
}

function storedDisks(disks: readonly RevertDisk[]): readonly StorageDisk[] {
  return disks.filter((disk) => disk.kind === 'storage');
}

/**
 * Plans one disk, and checks whether it is still the one that belongs to the memory.
 * @param current the domain's configuration now, if it runs
 * @param into what is found is added to these
 * @returns undefined if the disk cannot be reverted
 */
async function checkDisk(
  host: ImageHost,
  wanted: WantedDisk,
  current: LibxlConfig | undefined,
  manifest: Manifest | undefined,
  into: { readonly findings: Problem[]; readonly risks: Risk[] },
): Promise<RevertDisk | undefined> {
  const { disk, problems, risks } = await planDisk(host, wanted, current);
  into.findings.push(...problems);
  into.risks.push(...risks);
  if (disk === undefined) return undefined;
  const then = manifest?.identities?.find(({ vdev }) => vdev === disk.vdev);
  if (then !== undefined && disk.kind !== 'storage') await checkIdentity(host, disk, then, into.risks);
  return disk;
}

/** Adds a risk, unless it has already been found in another way. */
function addRisk(risks: Risk[], risk: Risk): void {
  if (!risks.some(({ risk: name, vdev }) => name === risk.risk && vdev === risk.vdev)) risks.push(risk);
}

async function checkIdentity(
  host: ImageHost,
  disk: QemuDisk,
  then: DiskIdentity,
  risks: Risk[],
): Promise<void> {
  const info = await infoOf(host, disk);
  if (info === undefined) return;
  for (const risk of await findChanged(disk, info, then)) addRisk(risks, risk);
}

async function checkRunning(
  host: Host,
  current: LibxlConfig | undefined,
  facts: MemoryFacts,
  risks: Risk[],
): Promise<void> {
  const changes = current === undefined ? [] : configChanges(facts.config, current);
  if (changes.length > 0) {
    risks.push({
      risk: 'config-changed',
      message: [
        "the domain's configuration has changed since the snapshot; the revert would bring back the old one:",
        ...describeChanges(changes, MAX_CHANGES).map((line) => `    ${line}`),
      ].join('\n'),
      changes,
    });
  }
  const { major, minor } = await host.hypervisor.version();
  if (major !== facts.xen.major || minor !== facts.xen.minor) {
    risks.push({
      risk: 'xen-changed',
      message: `the snapshot was taken on Xen ${facts.xen.major}.${facts.xen.minor}; this is ${major}.${minor}`,
    });
  }
}

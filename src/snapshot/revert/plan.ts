/** The plan of a revert, with all its checks. */
import { isAbsolute } from 'node:path';
import type { CallOptions } from '../../core/call-options.ts';
import { DiskError, RiskError } from '../../core/errors.ts';
import { configChanges, describeChanges } from '../../memfile/config-changes.ts';
import { findDamage } from '../../memfile/damage.ts';
import { configDisks, type LibxlConfig, qemuFormat } from '../../memfile/libxl-config.ts';
import { type DiskIdentity, type Manifest, readManifest } from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import { type MemoryFacts, readMemoryFacts } from '../../memfile/verify.ts';
import type { RevertDisk, RevertPlan, RevertRequest } from '../api.ts';
import { throwFindings } from '../create/plan.ts';
import { checkHeld, restartedError } from '../domain-lock.ts';
import { explainGone } from '../guest/state.ts';
import { standsOn, truePath } from '../images/chain.ts';
import { findChanged, infoOf } from '../images/identity.ts';
import type { DomainState, Host, ImageHost, ImageInfo, Obstacle } from '../ports.ts';
import { describeRisk, type Risk } from '../risks.ts';
import { revertCommand } from './command.ts';
import { findLaterSnapshots, type Known } from './later-snapshots.ts';
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
 * @throws UsageError, DomainError, StreamError, ManifestError, PreflightError, and RiskError unless `force`
 */
export async function makeRevertContext(
  host: Host,
  request: RevertRequest,
  options: CallOptions = {},
  held?: { readonly keys: readonly string[]; readonly halfBuilt: number | undefined },
): Promise<RevertContext> {
  const target = await findTarget(host, request, (text) => options.reporter?.log('warning', text));
  const { memoryPath, stored, running, journals } = target;
  if (held !== undefined) checkHeld(held.keys, running);
  const facts = await readMemoryFacts(memoryPath, options);
  const manifest = await readManifest(manifestPathOf(memoryPath));
  const findings: Obstacle[] = [];
  const risks: Risk[] = [];
  if (manifest !== undefined) findings.push(...(await checkMemory(host, memoryPath, manifest, options)));
  checkManifest(manifest, memoryPath, risks);
  const name = request.config.name ?? manifest?.name ?? '';
  const wanted = wantedDisks(request, name, facts.config, manifest);
  const current = await currentConfig(host, running, held?.halfBuilt);
  const disks: RevertDisk[] = [];
  const overlayPaths = new Set<string>();
  for (const disk of wanted) {
    const resolved = await resolveDisk(host, disk, current, findings, risks);
    if (resolved === undefined) continue;
    const then = manifest?.identities?.find((one) => one.vdev === resolved.vdev);
    if (then !== undefined) await checkIdentity(host, resolved, then, risks);
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
  refuseRisks(risks, request, running?.domid);
  const state = request.running === true ? 'running' : (manifest?.state ?? 'running');
  return {
    plan: {
      name,
      domain: stored.name,
      uuid: stored.uuid,
      domid: running?.domid,
      memoryPath,
      state,
      disks,
      risks,
      warnings,
    },
    running,
    journals,
    config,
  };
}

/**
 * Throws the risks that the request does not accept.
 * @throws {RiskError} If there are any
 */
function refuseRisks(risks: readonly Risk[], request: RevertRequest, domid: number | undefined): void {
  const { force, accept = [] } = request;
  const refused = force === true ? [] : risks.filter(({ risk }) => !accept.includes(risk));
  if (refused.length === 0) return;
  const names = refused.map(({ risk }) => risk);
  const command = revertCommand({ ...request, accept: [...new Set([...accept, ...names])] });
  throw new RiskError(
    'RISKY',
    ['this revert is risky:', ...refused.map((risk) => `  - ${describeRisk(risk)}`)].join('\n'),
    {
      hint: 'nothing has been changed; --force accepts every risk, --accept only those it names',
      data: { risks: refused, ...(command === undefined ? {} : { command }) },
      ...(domid === undefined ? {} : { domid }),
    },
  );
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
    throw await explainGone(host, running.domid, error, (cause) => restartedError(running, cause));
  }
}

/** Compares the memory file with its checksums; returns what is wrong with it. */
async function checkMemory(
  { extents }: Host,
  path: string,
  manifest: Manifest,
  options: CallOptions,
): Promise<readonly Obstacle[]> {
  const damage = await findDamage(path, manifest, { ...options, extents });
  return damage.map(({ code, message, hint }) => ({
    code,
    message: code === 'CHECKSUM' ? `${path}: ${message}` : message,
    ...(hint === undefined ? {} : { hint }),
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

/** A disk that the cfgfile asks for, with what the manifest or the stored configuration says about it. */
interface WantedDisk {
  readonly vdev: string;
  readonly kind: 'internal' | 'external';
  /** The image at the snapshot's instant; for an external one without a manifest `undefined`. */
  readonly image: string | undefined;
  /** In QEMU's words, as the manifest or the stored configuration states it. */
  readonly imageFormat: string;
  readonly tag: string;
  readonly overlay: string;
}

function wantedDisks(
  request: Pick<RevertRequest, 'config'>,
  name: string,
  config: LibxlConfig,
  manifest: Manifest | undefined,
): readonly WantedDisk[] {
  const stored = configDisks(config);
  if (request.config.disks === undefined && manifest !== undefined) {
    return manifest.disks.map((disk) =>
      disk.kind === 'internal'
        ? {
            vdev: disk.vdev,
            kind: disk.kind,
            image: disk.image,
            imageFormat: 'qcow2',
            tag: disk.tag,
            overlay: '',
          }
        : {
            vdev: disk.vdev,
            kind: disk.kind,
            image: disk.base,
            imageFormat: disk.baseFormat,
            tag: '',
            overlay: disk.overlay,
          },
    );
  }
  const asked =
    request.config.disks ??
    stored
      .filter((disk) => disk.writable && !disk.cdrom)
      .map((disk) => ({ kind: 'internal', target: disk.vdev }) as const);
  return asked.map((disk) => {
    const known = manifest?.disks.find((one) => one.vdev === disk.target);
    const inConfig = stored.find((one) => one.vdev === disk.target);
    const image = known === undefined ? inConfig?.path : known.kind === 'internal' ? known.image : known.base;
    return {
      vdev: disk.target,
      kind: disk.kind,
      image,
      imageFormat:
        known === undefined
          ? qemuFormat(inConfig?.format)
          : known.kind === 'external'
            ? known.baseFormat
            : 'qcow2',
      tag: name,
      overlay: disk.kind === 'external' ? disk.path : '',
    };
  });
}

function uncoveredDisks(config: LibxlConfig, wanted: readonly WantedDisk[]): readonly Risk[] {
  return configDisks(config).flatMap(({ writable, cdrom, vdev }): Risk[] => {
    if (!writable || cdrom || wanted.some((one) => one.vdev === vdev)) return [];
    const message = `disk ${vdev} is not part of the snapshot: the memory would not match its newer data`;
    return [{ risk: 'disk-uncovered', message, vdev }];
  });
}

/**
 * Makes the checks of a snapshot's disks that need no Xen: what a revert by the cfgfile that was written with it would find,
 * the domain being down. Changes nothing.
 * @param known the other snapshots; its own is ignored
 * @throws DiskError
 */
export async function checkDisksAtRest(
  host: ImageHost,
  snapshot: { readonly memoryPath: string; readonly config: LibxlConfig; readonly manifest: Manifest },
  known: readonly Known[],
): Promise<{ readonly findings: readonly Obstacle[]; readonly risks: readonly Risk[] }> {
  const { memoryPath, config, manifest } = snapshot;
  const findings: Obstacle[] = [];
  const risks: Risk[] = [];
  const wanted = wantedDisks({ config: {} }, manifest.name, config, manifest);
  const disks: RevertDisk[] = [];
  for (const disk of wanted) {
    const resolved = await resolveDisk(host, disk, undefined, findings, risks);
    if (resolved === undefined) continue;
    const then = manifest.identities?.find((one) => one.vdev === resolved.vdev);
    if (then !== undefined) await checkIdentity(host, resolved, then, risks);
    disks.push(resolved);
  }
  const others = known.filter((one) => one.memoryPath !== memoryPath);
  for (const risk of await findLaterSnapshots(host, memoryPath, disks, others)) addRisk(risks, risk);
  risks.push(...uncoveredDisks(config, wanted));
  return { findings, risks };
}

/** Adds a risk, unless it has already been found in another way. */
function addRisk(risks: Risk[], risk: Risk): void {
  if (!risks.some((one) => one.risk === risk.risk && one.vdev === risk.vdev)) risks.push(risk);
}

async function checkIdentity(
  host: ImageHost,
  disk: RevertDisk,
  then: DiskIdentity,
  risks: Risk[],
): Promise<void> {
  const info = await infoOf(host, disk);
  if (info === undefined) return;
  for (const risk of await findChanged(disk, info, then)) addRisk(risks, risk);
}

async function resolveDisk(
  host: ImageHost,
  disk: WantedDisk,
  current: LibxlConfig | undefined,
  findings: Obstacle[],
  risks: Risk[],
): Promise<RevertDisk | undefined> {
  const { vdev, image } = disk;
  if (image === undefined) {
    findings.push({ code: 'NO_SUCH_DISK', message: `disk ${vdev}: the domain had no such disk` });
    return undefined;
  }
  if (!isAbsolute(image)) {
    // libxl leaves such a path as it is, and QEMU takes it from the directory where `xl create` was called.
    findings.push({
      code: 'IMAGE_RELATIVE',
      message: `disk ${vdev}: cannot tell where its image ${image} is: the path is not absolute`,
      hint: 'write absolute paths into the disk= lines of the domain',
    });
    return undefined;
  }
  if (disk.kind === 'internal' && disk.imageFormat !== 'qcow2') {
    // A guest can write what looks like a snapshot into its raw disk.
    findings.push({
      code: 'IMAGE_FORMAT',
      message: `disk ${vdev}: its image ${image} has format ${disk.imageFormat}; only qcow2 supports internal snapshots`,
    });
    return undefined;
  }
  const info = await host.images.info(image, disk.imageFormat);
  if (info === undefined) {
    findings.push({ code: 'NO_IMAGE', message: `disk ${vdev}: its image ${image} no longer exists` });
    return undefined;
  }
  if (disk.kind === 'internal' && !info.tags.includes(disk.tag)) {
    findings.push({
      code: 'NO_TAG',
      message: `disk ${vdev}: ${image} has no snapshot "${disk.tag}"`,
      hint: `it has ${info.tags.length === 0 ? 'none' : info.tags.join(', ')}`,
    });
    return undefined;
  }
  const own = current === undefined ? undefined : configDisks(current).find((one) => one.vdev === vdev);
  const used = own?.path;
  const same = async (one: string | undefined, other: string): Promise<boolean> =>
    one !== undefined && (await truePath(one)) === (await truePath(other));
  const isBelowImage = async (below: string): Promise<boolean> =>
    await standsOn(host.images, { path: image, format: disk.imageFormat }, await truePath(below));
  const isBelowUsed = async (below: string): Promise<boolean> =>
    used !== undefined &&
    (await standsOn(host.images, { path: used, format: qemuFormat(own?.format) }, await truePath(below)));
  if (used !== undefined && !(await same(used, image))) {
    if (await isBelowImage(used)) {
      risks.push({
        risk: 'base-written',
        message: `disk ${vdev}: the domain writes to ${used}, which is below ${image} and has changed since the snapshot`,
        vdev,
      });
    } else if (!(await same(used, disk.overlay)) && !(await isBelowUsed(image))) {
      risks.push({
        risk: 'other-image',
        message: `disk ${vdev}: the domain now uses ${used}, which is unrelated to ${image}`,
        vdev,
      });
    }
  }
  if (disk.kind === 'internal') {
    if (used !== undefined && !(await same(used, image)) && (await isBelowUsed(image))) {
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${vdev}: ${used}, which the domain uses now, depends on ${image} and would be broken`,
        vdev,
      });
    }
    return { kind: 'internal', vdev, image, tag: disk.tag };
  }
  if ((await same(disk.overlay, image)) || (await isBelowImage(disk.overlay))) {
    findings.push({
      code: 'OVERLAY_IS_BASE',
      message: `disk ${vdev}: ${disk.overlay} holds the snapshot itself: an overlay cannot take its place`,
      hint: 'give the path of the overlay',
    });
    return undefined;
  }
  if (await same(used, image)) {
    risks.push({
      risk: 'base-written',
      message: `disk ${vdev}: the domain writes to ${image} itself, which has changed since the snapshot`,
      vdev,
    });
  }
  const replaced = await qcow2Info(host, disk.overlay);
  if (replaced !== undefined) {
    if (replaced.tags.length > 0) {
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${vdev}: ${disk.overlay} holds later snapshots (${replaced.tags.join(', ')}) that would be lost`,
        vdev,
      });
    }
    if (used !== undefined && !(await same(used, disk.overlay)) && (await isBelowUsed(disk.overlay))) {
      risks.push({
        risk: 'later-snapshot',
        message: `disk ${vdev}: the later snapshot ${used} depends on the overlay ${disk.overlay}`,
        vdev,
      });
    }
    if (!(await same(replaced.backing, image))) {
      risks.push({
        risk: 'not-an-overlay',
        message: `disk ${vdev}: ${disk.overlay}, which would be replaced, is not an overlay of ${image}`,
        vdev,
      });
    }
  }
  return {
    kind: 'external',
    vdev,
    base: image,
    baseFormat: disk.imageFormat,
    overlay: disk.overlay,
    replaced: replaced === undefined ? undefined : disk.overlay,
  };
}

/** What the file at an overlay's place says as qcow2, which an overlay is. What is of another format says nothing. */
async function qcow2Info(
  { images }: ImageHost,
  path: string,
): Promise<Pick<ImageInfo, 'tags' | 'backing'> | undefined> {
  try {
    return await images.info(path, 'qcow2');
  } catch (error) {
    if (error instanceof DiskError && error.code === 'IMAGE_FORMAT') return { tags: [], backing: undefined };
    throw error;
  }
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

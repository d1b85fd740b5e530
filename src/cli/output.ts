/** Texts that snapshot-create, snapshot-revert, recover and verify print. */
import { shellQuote } from '../core/shell-quote.ts';
import type { PhaseTiming, SnapshotDisk } from '../memfile/manifest.ts';
import type { MemoryReport } from '../memfile/verify.ts';
import type {
  CreateResult,
  PrecopyLimits,
  RecoverResult,
  RevertDisk,
  RevertPlan,
  RevertResult,
  SnapshotPlan,
} from '../snapshot/api.ts';
import { describeRisk } from '../snapshot/risks.ts';
import {
  diskLinesText,
  formatBytes,
  formatPages,
  formatSeconds,
  indentedTable,
  localTime,
  plural,
} from './text.ts';

/** What `snapshot-create --dry-run` prints. */
export function createPlanText(plan: SnapshotPlan): string {
  return joinLines([
    `Snapshot "${plan.name}" of domain ${plan.domain} (domid ${plan.domid}, ${plan.type}, ${plan.state})`,
    plan.description === '' ? undefined : `  description: ${plan.description.replaceAll('\n', '\n    ')}`,
    `  memory: ${plan.memoryPath} (${plan.stream ? 'a stream, ' : ''}at most about ${formatBytes(plan.memoryBytes)})`,
    plan.precopy === undefined ? undefined : `  live: ${limitsText(plan.precopy)}`,
    plan.tracking ? '  afterwards: the guest is tracked' : undefined,
    plan.configPath === undefined ? undefined : `  cfgfile: ${plan.configPath}`,
    plan.manifestPath === undefined ? undefined : `  manifest: ${plan.manifestPath}`,
    ...plan.disks.map((disk) => `  disk ${disk.vdev}: ${plannedText(disk)}`),
    ...plan.warnings.map((warning) => `  warning: ${warning}`),
    overlaysText(plan, 'Then'),
    'Dry run: nothing was changed.',
  ]);
}

function limitsText({ maxRounds, targetDowntimeMs, maxDowntimeMs }: PrecopyLimits): string {
  const texts = [`at most ${maxRounds} rounds while it runs`];
  if (targetDowntimeMs !== undefined)
    texts.push(`until it needs to be stopped for about ${targetDowntimeMs} ms`);
  if (maxDowntimeMs !== undefined) texts.push(`giving up above ${maxDowntimeMs} ms`);
  return texts.join(', ');
}

function plannedText(disk: SnapshotDisk): string {
  switch (disk.kind) {
    case 'internal':
      return `internal, tag "${disk.tag}" in ${disk.image}`;
    case 'external':
      return `external, ${disk.base} stays as it is, the domain continues on ${disk.overlay}`;
    case 'storage':
      return `${disk.snapshot}, by its storage (${disk.storage}); the domain stays on ${disk.image}`;
  }
}

/** The end of `snapshot-create`: where the files are, how long the guest was stopped, how to revert. */
export function createResultText(result: CreateResult): string {
  const { plan } = result;
  const sizes = plan.stream
    ? `a stream of ${formatBytes(result.fileBytes)}`
    : `${formatBytes(result.fileBytes)}, ${formatBytes(result.allocatedBytes)} on disk`;
  return joinLines([
    `Snapshot "${plan.name}" of ${plan.domain} taken`,
    `  memory: ${plan.memoryPath} (${sizes})`,
    copiedText(result),
    ...plan.disks.map((disk) => `  disk ${disk.vdev}: ${takenText(disk)}`),
    stoppedText(result),
    trackingText(result),
    plan.configPath === undefined
      ? 'A stream has no cfgfile beside it: see man xlsnap.cfg, "Streams"'
      : `To revert: ${['xlsnap', 'snapshot-revert', plan.domain, plan.configPath].map(shellQuote).join(' ')}`,
    overlaysText(plan, 'Now'),
  ]);
}

/** How much of the memory was copied, if the guest was or is to be tracked. */
function copiedText({ tracked }: CreateResult): string | undefined {
  if (tracked === undefined || ('full' in tracked && tracked.full === 'NOT_TRACKED')) return undefined;
  return 'full' in tracked
    ? `  copied: all memory, since ${tracked.message}`
    : `  copied: ${formatPages(tracked.pages)}, written since ${tracked.parent}, which is not needed any more`;
}

function trackingText({ plan, tracking }: CreateResult): string | undefined {
  if (tracking === undefined) return undefined;
  return tracking
    ? `The guest is tracked: the next snapshot copies what it writes from now on. To end that: xlsnap track off ${shellQuote(plan.domain)}`
    : 'The guest is not tracked any more: the next snapshot copies all memory';
}

function takenText(disk: SnapshotDisk): string {
  switch (disk.kind) {
    case 'internal':
      return `in ${disk.image}`;
    case 'external':
      return `${disk.base}; the domain continues on ${disk.overlay}`;
    case 'storage':
      return `${disk.snapshot}; the domain stays on ${disk.image}`;
  }
}

/** What to do about the file that the domain is started from, once disks are on overlays. */
function overlaysText({ domain, disks }: SnapshotPlan, when: string): string | undefined {
  const overlays = disks.flatMap((disk) =>
    disk.kind === 'external' ? [[disk.vdev, disk.overlay] as const] : [],
  );
  if (overlays.length === 0) return undefined;
  const change = diskLinesText(domain, new Map(overlays), when);
  return `${change}. Starting it on the old image would ruin this snapshot and the disk`;
}

function stoppedText({ plan, phases, rounds, downtimeSeconds }: CreateResult): string {
  if (plan.state === 'paused') return 'The guest was paused before, and still is';
  const slowest = stoppedPhases(phases).reduce<PhaseTiming | undefined>(
    (most, phase) => (most === undefined || phase.seconds > most.seconds ? phase : most),
    undefined,
  );
  const by =
    slowest === undefined ? '' : `, most of it by ${slowest.name} (${formatSeconds(slowest.seconds)})`;
  const before = rounds === undefined ? '' : `, after ${plural(rounds.length - 1, 'round')}`;
  return `The guest was stopped for ${formatSeconds(downtimeSeconds)}${by}${before}`;
}

/** Returns the phases that ran while the guest was suspended: those after `suspend`, up to `resume`. */
function stoppedPhases(phases: readonly PhaseTiming[]): readonly PhaseTiming[] {
  const names = phases.map((phase) => phase.name);
  return phases.slice(names.indexOf('suspend') + 1, names.indexOf('resume') + 1);
}

/** What `snapshot-revert --dry-run` prints. */
export function revertPlanText(plan: RevertPlan): string {
  return joinLines([
    `Revert of domain ${plan.domain} to snapshot "${plan.name}"`,
    plan.domid === undefined ? '  the domain is not running' : `  domid ${plan.domid} will be destroyed`,
    plan.created === undefined ? undefined : `  lost: what the guest wrote since ${localTime(plan.created)}`,
    `  memory: ${plan.memoryPath}`,
    ...plan.disks.map((disk) => `  disk ${disk.vdev}: ${putBack(disk)}`),
    `  afterwards: ${plan.state}`,
    ...plan.risks.map((risk) => `  risk: ${describeRisk(risk)}`),
    ...plan.warnings.map((warning) => `  warning: ${warning}`),
    'Dry run: nothing was changed.',
  ]);
}

function putBack(disk: RevertDisk): string {
  if (disk.kind === 'internal') return `tag "${disk.tag}" of ${disk.image}`;
  if (disk.kind === 'storage') return `${disk.image} as in ${disk.snapshot}`;
  const replaced = disk.replaced === undefined ? '' : `, in place of ${disk.replaced}`;
  return `fresh overlay ${disk.overlay} on ${disk.base}${replaced}`;
}

/** The end of `snapshot-revert`. */
export function revertResultText(result: RevertResult): string {
  const { plan } = result;
  const took = formatSeconds(result.totalSeconds);
  const { awaySeconds } = result;
  return joinLines([
    `Domain ${plan.domain} is back at snapshot "${plan.name}": domid ${result.domid}, ${plan.state}, after ${took}`,
    ...plan.disks.map((disk) => `  disk ${disk.vdev}: ${putBack(disk)}`),
    result.kept.length === 0 ? undefined : `  kept: ${result.kept.join(', ')}`,
    awaySeconds === undefined ? undefined : `The domain was away for ${formatSeconds(awaySeconds)}`,
    plan.state === 'paused' ? `To run it: xl unpause ${result.domid}` : undefined,
  ]);
}

/** What `recover` prints: for each journal, what it belonged to and what has been done. */
export function recoverResultText(results: readonly RecoverResult[], path: string | undefined): string {
  if (results.length === 0) {
    return 'Nothing to recover: no journals below /var/lib/xen/snapshots. For one elsewhere: xlsnap recover FILE';
  }
  return joinLines(results.flatMap((result) => recoveredLines(result, path)));
}

function recoveredLines(result: RecoverResult, path: string | undefined): readonly (string | undefined)[] {
  const { journal, kind, outcome, name, domain, guest, undone } = result;
  if (outcome === 'nothing')
    return [`Nothing to undo: there is no journal ${path === journal ? path : journal}`];
  if (kind === 'revert') return revertRecoveredLines(result);
  if (kind === 'delete') {
    return [`Snapshot "${name}" of ${domain}: its delete is finished`, ...undone.map((step) => `  ${step}`)];
  }
  const what = name === undefined ? `A create that had barely started` : `Snapshot "${name}" of ${domain}`;
  const now = guest === undefined ? '' : `; the domain is ${guest}`;
  const how = outcome === 'whole' ? 'is complete, and stays' : 'was incomplete, and has been undone';
  return [`${what}: ${how}${now}`, ...undone.map((step) => `  ${step}`)];
}

function revertRecoveredLines(result: RecoverResult): readonly (string | undefined)[] {
  const { outcome, name, domain, guest, undone, kept = [], halfBuilt, next } = result;
  const how = {
    whole: 'had been completed',
    undone: 'has been undone: the disks are as they were before',
    reverted: 'was half done: the disks are as at the snapshot, but the memory has not been restored',
    nothing: '',
    deleted: '',
  }[outcome];
  return [
    `Revert of ${domain} to "${name}": ${how}; the domain is ${guest}`,
    ...undone.map((step) => `  ${step}`),
    kept.length === 0 ? undefined : `  kept: ${kept.join(', ')}`,
    halfBuilt === undefined
      ? undefined
      : `  domid ${halfBuilt} is what the restore created, perhaps only partly: continue, or xl destroy ${halfBuilt}`,
    outcome === 'whole' ? undefined : `To continue: ${next ?? 'run the same snapshot-revert again'}`,
    outcome === 'undone' && guest === 'gone'
      ? `Or stop here: xl create starts ${domain} with its disks as before`
      : undefined,
  ];
}

/** What `verify` prints of a sound file. */
export function verifyResultText(report: MemoryReport, columns: number | undefined): string {
  const { path, bytes, guestType, xen, pages, records, checksums } = report;
  const by = xen === undefined ? '' : `, saved by Xen ${xen.major}.${xen.minor}`;
  return joinLines([
    `${path} is sound: ${guestType === 'pv' ? 'PV' : 'HVM or PVH'} guest${by}, ${pages} pages, ${formatBytes(bytes)}`,
    ...indentedTable(
      [
        ['', 'count', 'bytes'],
        ...records.map(({ level, name, count, bytes }) => [`${level} ${name}`, String(count), String(bytes)]),
      ],
      columns,
    ),
    checksums === 'right'
      ? '  each byte is as written, according to the checksums in its manifest'
      : '  there are no checksums beside it: the contents of the pages cannot be checked',
  ]);
}

function joinLines(texts: readonly (string | undefined)[]): string {
  return texts.filter((text) => text !== undefined).join('\n');
}

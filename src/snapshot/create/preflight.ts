/** Checks, before anything is changed, whether a create can succeed. */

import { constants } from 'node:fs';
import { access, stat, statfs } from 'node:fs/promises';
import { dirname, isAbsolute } from 'node:path';
import type { Domid } from '../../core/brand.ts';
import { DomainError, describeError, errnoCode } from '../../core/errors.ts';
import { nearestDirectory } from '../../core/files.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { LibxlConfig } from '../../memfile/libxl-config.ts';
import { recordsOf, textOf } from '../../memfile/libxl-fields.ts';
import { partialOf } from '../../memfile/names.ts';
import { asFinding } from '../findings.ts';
import { journalPathOf } from '../naming.ts';
import type { Host, Toolstack } from '../ports.ts';
import { readTrack } from '../track/record.ts';
import { checkDisks, newFilesOf, placesOf } from './disk-checks.ts';
import type { CreateContext } from './plan.ts';
import { type DataShare, sampleData } from './room.ts';

/** Space for everything but pages: record heads, HVM and device model state, cfgfile, manifest. */
const EXTRA_BYTES = 16 * 1024 * 1024;

/**
 * Looks for everything that would make a create fail, without changing anything, and adds it to the context's findings.
 * The domain is not paused for any of it.
 */
export async function preflightCreate(host: Host, context: CreateContext): Promise<void> {
  const { plan, findings } = context;
  const newFiles = [
    ...(plan.stream ? [] : [plan.memoryPath, partialOf(plan.memoryPath)]),
    journalPathOf(context.journalBase),
    ...(plan.configPath === undefined ? [] : [plan.configPath]),
    ...(plan.manifestPath === undefined ? [] : [plan.manifestPath]),
    ...newFilesOf(plan.disks),
  ];
  const all = [...newFiles, ...placesOf(plan.disks)];
  for (const path of all.filter((one, at) => all.indexOf(one) !== at)) {
    findings.push({
      code: 'PATH_TWICE',
      message: `${path} would be written twice`,
      hint: 'give each its own path',
    });
  }
  for (const path of newFiles) {
    const own = path === partialOf(plan.memoryPath) || path === journalPathOf(context.journalBase);
    const hint = own
      ? `another xlsnap is writing it, or one was killed: run xlsnap recover ${shellQuote(context.journalBase)}`
      : 'files are never replaced: choose another name or remove it';
    await checkNewFile(path, findings, hint);
  }
  const saver = await host.toolstack.saver(context.domain.domid);
  if (saver !== undefined) findings.push(beingSavedProblem(saver));
  const memory = await host.hypervisor.memoryObstacle(context.domain.domid, plan.type);
  if (memory !== undefined) findings.push(memory);
  if (plan.state === 'paused' && !(await host.hypervisor.hasBooted(context.domain.domid, plan.type))) {
    findings.push({
      code: 'NEVER_RAN',
      message:
        'the domain is paused and its guest has not booted: only a running guest can suspend, so it would boot now',
      hint: `unpause it, and take the snapshot once it has booted: xl unpause ${context.domain.domid}`,
    });
  }
  if (!plan.stream) await checkRoom(host, context, memory === undefined);
  if (plan.live) findings.push(...(await findLiveObstacles(host, context)));
  await checkDisks(host, context);
}

/** Finds what prevents copying the guest's memory while it runs. */
export async function findLiveObstacles(
  host: Host,
  { plan, config }: Pick<CreateContext, 'plan' | 'config'>,
): Promise<readonly Problem[]> {
  const ofHost = await host.hypervisor.liveObstacle(plan.type);
  return [...againstLive(config), ...(ofHost === undefined ? [] : [ofHost])];
}

/** Xen refuses log-dirty mode to a domain that uses the IOMMU (xen/arch/x86/mm/paging.c). */
function againstLive(config: LibxlConfig): Problem[] {
  const devices = ['pcidevs', 'dtdevs'].some((key) => recordsOf(config, key).length > 0);
  const passthrough = textOf(config, 'c_info', 'passthrough') ?? '';
  if (!devices && !IOMMU_MODES.includes(passthrough)) return [];
  return [
    {
      code: 'LIVE_IOMMU',
      message: 'it has PCI devices, or may have them: Xen then cannot track which pages are written',
      hint: 'omit --live',
    },
  ];
}

/** Values of libxl_passthrough (libxl_types.idl) with which a domain uses the IOMMU. */
const IOMMU_MODES: readonly string[] = ['enabled', 'sync_pt', 'share_pt'];

/** Says that another program is saving or migrating the domain. */
export function beingSavedProblem(pid: number): Problem {
  return {
    code: 'BEING_SAVED',
    message: `another program is saving or migrating the domain: libxl-save-helper, pid ${pid}`,
    hint: 'wait for it to finish',
  };
}

/** @throws {DomainError} If another program is saving or migrating the domain (`BEING_SAVED`) */
export async function refuseSaved(
  toolstack: Pick<Toolstack, 'saver'>,
  domid: Domid,
  options?: Parameters<Toolstack['saver']>[1],
): Promise<void> {
  const pid = await toolstack.saver(domid, options);
  if (pid === undefined) return;
  const { code, message, hint } = beingSavedProblem(pid);
  throw new DomainError(code, message, { domid, hint });
}

async function checkNewFile(path: string, findings: Problem[], hint: string): Promise<void> {
  if (!isAbsolute(path)) {
    findings.push({ code: 'PATH_RELATIVE', message: `${path} is not an absolute path` });
    return;
  }
  try {
    await stat(path);
    findings.push({
      code: 'FILE_EXISTS',
      message: `${path} already exists`,
      hint,
    });
  } catch (error) {
    const code = errnoCode(error);
    if (code !== 'ENOENT') {
      findings.push({
        code: 'FILE_UNREACHABLE',
        message: `${path} cannot be created: ${describeError(error)}`,
      });
      return;
    }
  }
  const directory = await nearestDirectory(dirname(path));
  try {
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    findings.push({ code: 'NOT_WRITABLE', message: `cannot write in ${directory}: ${describeError(error)}` });
  }
}

/**
 * Checks the free space. Pages of zeros take none, so this fails only if the size estimated from a sample of the guest's pages does not fit. A create
 * whose file system becomes full all the same is undone, where xl or virsh would fail. The sample is taken only
 * if not all of the memory fits.
 */
async function checkRoom(host: Host, context: CreateContext, mayRead: boolean): Promise<void> {
  const { plan, findings, warnings } = context;
  // Heads, and the records that allocate pages: 8 bytes for a page in each.
  const extra = EXTRA_BYTES + plan.memoryBytes / 256;
  const wanted = plan.memoryBytes + extra;
  const directory = await nearestDirectory(dirname(plan.memoryPath));
  const { bavail, bsize } = await statfs(directory);
  const room = bavail * bsize;
  if (room >= wanted) return;
  // A clone takes what has changed. If all has to be copied after all, and does not fit, everything is undone.
  if (context.mayClone && readTrack(host, plan.uuid)?.domid === plan.domid) return;
  const mib = (bytes: number): string => `${Math.ceil(bytes / 1048576)} MiB`;
  const sparse = context.tuning?.sparse !== false;
  await asFinding(findings, async () => {
    let share: DataShare = { least: 1, most: 1 };
    if (sparse && mayRead) {
      await using guest = await host.hypervisor.openGuest(context.domain.domid);
      share = await sampleData(guest);
    }
    const least = plan.memoryBytes * share.least + extra;
    const most = plan.memoryBytes * share.most + extra;
    const has = `the file system of ${directory} has ${mib(room)} free; the memory file`;
    if (room < least) {
      findings.push({
        code: 'NO_ROOM',
        message: `${has} will need about ${mib(least)}${least < wanted ? ', not counting its pages of zeros' : ''}`,
        hint: 'free some space, or choose another memory_path',
      });
    } else if (room < most) {
      warnings.push(
        `${has} may need ${mib(most)}, not counting its pages of zeros: if it does not fit, everything is undone`,
      );
    }
  });
}

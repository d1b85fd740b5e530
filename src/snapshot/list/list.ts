/** Lists snapshots, with what a revert to each would say now. Needs no running Xen. */
import { stat } from 'node:fs/promises';
import { basename, dirname, resolve } from 'node:path';
import type { CallOptions } from '../../core/call-options.ts';
import { EXIT, throwIfAborted, UsageError, XlsnapError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import type { Problem } from '../../core/problem.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { findDamage } from '../../memfile/compare-checksums.ts';
import {
  byAge,
  type DamagedManifest,
  type FoundManifest,
  type FoundManifests,
  findManifests,
  nameOfFile,
} from '../../memfile/find-manifests.ts';
import { domainIdentity } from '../../memfile/libxl-config.ts';
import type { Manifest, SnapshotDisk } from '../../memfile/manifest.ts';
import { configPathOf, manifestPathOf } from '../../memfile/names.ts';
import { readStoredConfig } from '../../memfile/verify.ts';
import { asFinding } from '../findings.ts';
import { dirOptions, journalPathOf, snapshotDirOf } from '../naming.ts';
import type { ImageHost, ImageInfo, Images } from '../ports.ts';
import { checkDisksAtRest } from '../revert/plan.ts';
import type { Risk } from '../risks.ts';
import { isLeftOver, mergeableLater } from './left-over.ts';
import { keysOf, ofDomain } from './match.ts';

export interface ListRequest {
  /** Name or uuid of the only domain whose snapshots are listed. It need not run. */
  readonly domain?: string | undefined;
  /** More names and uuids of it: of the running domain that a domid stands for, for example. */
  readonly keys?: readonly string[] | undefined;
  /** Where to look besides the host's own directory: there, and in the directories right below. */
  readonly directories?: readonly string[] | undefined;
  /** How many at most: the newest. Default: all. */
  readonly newest?: number | undefined;
}

/** What there is. */
export interface SnapshotList {
  /** Where it was looked for. */
  readonly directories: readonly string[];
  /** Newest last. */
  readonly snapshots: readonly ListedSnapshot[];
  /** Manifests that cannot be read. Of another domain only if nothing says whose they are. */
  readonly damaged: readonly DamagedSnapshot[];
}

export interface ListedSnapshot {
  readonly name: string;
  readonly description: string;
  readonly domain: string;
  readonly uuid: string;
  /** ISO 8601, UTC. */
  readonly created: string;
  readonly state: Manifest['state'];
  readonly type: Manifest['type'];
  readonly memoryPath: string;
  /** Absent if there is no such file. */
  readonly configPath?: string;
  readonly manifestPath: string;
  /** Length of the memory file by the manifest, in bytes. */
  readonly fileBytes: number;
  /** Bytes that the file system has allocated for it. Absent if it is missing. */
  readonly allocatedBytes?: number;
  /** How many of these are shared with other files, such as snapshots of a tracked guest. Absent if the file system does not say. */
  readonly sharedBytes?: number;
  /** How many of them are not shared: what deleting the snapshot would free. Absent with `sharedBytes`. */
  readonly ownBytes?: number;
  readonly disks: readonly SnapshotDisk[];
  /**
   * `possible`: nothing that can be known without Xen prevents a revert. `risky`: it needs `accept` or `force`. `impossible`:
   * it would be refused.
   */
  readonly revert: 'possible' | 'risky' | 'impossible';
  /** Why it would be refused. */
  readonly problems: readonly Problem[];
  /** Why it would be risky. */
  readonly risks: readonly Risk[];
}

/** A snapshot whose manifest cannot be read. */
export interface DamagedSnapshot {
  /** From the name of the file. */
  readonly name: string;
  /** By the memory file. Absent if that cannot be read either. */
  readonly domain?: string;
  readonly memoryPath: string;
  readonly manifestPath: string;
  /** What is wrong with it. */
  readonly message: string;
}

/**
 * Lists the snapshots that have a manifest in the host's directory and in others. For each, makes those checks of a revert
 * that need neither Xen nor the whole memory file: its length and header, tags, base images, later snapshots. A revert also
 * checks the file's checksums, the host, and the domain's configuration.
 * @throws {UsageError} If one of the given directories does not exist
 * @throws {EnvironmentError} If a directory cannot be read
 * @throws {InterruptedError} If the signal is aborted
 */
export async function listSnapshots(
  host: ImageHost,
  request: ListRequest = {},
  options: CallOptions = {},
): Promise<SnapshotList> {
  const { directories, all, wanted, keys } = await findWanted(host, request);
  const once = askingOnce(host);
  const snapshots: ListedSnapshot[] = [];
  for (const one of newestOf(byAge(wanted), request.newest)) {
    throwIfAborted(options.signal);
    snapshots.push(await listed(once, one, all));
  }
  return { directories, snapshots, damaged: await damagedOf(all.damaged, keys) };
}

/**
 * The names of the snapshots, newest first, each once, without any check.
 * @throws {UsageError} If one of the given directories does not exist
 * @throws {EnvironmentError} If a directory cannot be read
 */
export async function snapshotNames(host: ImageHost, request: ListRequest): Promise<readonly string[]> {
  const { wanted } = await findWanted(host, request);
  const names = byAge(wanted).map(({ manifest }) => manifest.name);
  return [...new Set(names.reverse())];
}

function newestOf<T>(oldestFirst: readonly T[], count: number = oldestFirst.length): readonly T[] {
  return oldestFirst.slice(Math.max(0, oldestFirst.length - count));
}

async function findWanted(host: ImageHost, request: ListRequest) {
  const directories = await searched(host, request.directories);
  const all = await findManifests(directories);
  const { domain } = request;
  const keys = domain === undefined ? undefined : [...keysOf(domain, undefined), ...(request.keys ?? [])];
  const wanted = keys === undefined ? all.found : ofDomain(all.found, keys);
  return { directories, all, wanted, keys };
}

/**
 * Where snapshots are looked for.
 * @throws {UsageError} If one of the given directories does not exist
 */
export async function searched(
  host: Pick<ImageHost, 'snapshotDir'>,
  given: readonly string[] = [],
): Promise<readonly string[]> {
  for (const directory of given) {
    if ((await stat(directory).catch(() => undefined))?.isDirectory() === true) continue;
    throw new UsageError('NO_DIRECTORY', `there is no directory ${directory}`);
  }
  return [...new Set([snapshotDirOf(host), ...given.map((one) => resolve(one))])];
}

async function listed(
  host: ImageHost,
  one: FoundManifest,
  { found }: Pick<FoundManifests, 'found'>,
): Promise<ListedSnapshot> {
  const { memoryPath, manifest } = one;
  const { name, description, domain, uuid, created, state, type, disks } = manifest;
  const configPath = configPathOf(memoryPath);
  const file = await stat(memoryPath).catch(() => undefined);
  const shared = file === undefined ? undefined : await host.sharedBytes?.(memoryPath);
  const { problems, risks } = await checkSnapshot(host, one, found);
  return {
    name,
    description,
    domain,
    uuid,
    created,
    state,
    type,
    memoryPath,
    ...((await exists(configPath)) ? { configPath } : {}),
    manifestPath: manifestPathOf(memoryPath),
    fileBytes: manifest.memory.bytes,
    ...(file === undefined ? {} : sizesOf(file.blocks * 512, shared)),
    disks,
    revert: problems.length > 0 ? 'impossible' : risks.length > 0 ? 'risky' : 'possible',
    problems,
    risks,
  };
}

/** Blocks that are reserved or not yet written have no extent: what is shared may be more than what is allocated. */
function sizesOf(
  allocatedBytes: number,
  shared: number | undefined,
): Pick<ListedSnapshot, 'allocatedBytes' | 'sharedBytes' | 'ownBytes'> {
  if (shared === undefined) return { allocatedBytes };
  const sharedBytes = Math.min(shared, allocatedBytes);
  return { allocatedBytes, sharedBytes, ownBytes: allocatedBytes - sharedBytes };
}

/** What a revert to a snapshot would say, as far as it can be known without Xen and without reading all of its memory. */
async function checkSnapshot(
  host: ImageHost,
  { memoryPath, manifest }: FoundManifest,
  all: readonly FoundManifest[],
): Promise<{ readonly problems: readonly Problem[]; readonly risks: readonly Risk[] }> {
  const problems: Problem[] = [];
  if (await exists(journalPathOf(memoryPath))) {
    problems.push({
      code: 'UNFINISHED',
      message: 'a create or delete of it was killed, or is under way',
      hint: `xlsnap recover ${shellQuote(memoryPath)} ends it`,
    });
  }
  if (!(await exists(memoryPath))) {
    problems.push({ code: 'NO_MEMORY_FILE', message: `its memory file ${memoryPath} is missing` });
    await tried(problems, async () => {
      if (await isLeftOver({ memoryPath, manifest }))
        problems.splice(0, 1, await leftOver(host, memoryPath, manifest));
    });
    return { problems, risks: [] };
  }
  const { memory } = manifest;
  await tried(problems, async () => {
    for (const { code, message } of await findDamage(memoryPath, { memory })) {
      problems.push({ code, message });
    }
  });
  const risks: Risk[] = [];
  await tried(problems, async () => {
    const config = await readStoredConfig(memoryPath);
    const disks = await checkDisksAtRest(host, { memoryPath, config, manifest }, all);
    problems.push(...disks.findings);
    risks.push(...disks.risks);
  });
  return { problems, risks };
}

/** Of a snapshot that was deleted, its overlays are left. */
async function leftOver(host: ImageHost, memoryPath: string, manifest: Manifest): Promise<Problem> {
  const overlays = (await mergeableLater(host, manifest)).map(({ overlay }) => overlay);
  const again = `xlsnap snapshot-delete ${shellQuote(manifest.domain)} ${shellQuote(manifest.name)}${dirOptions(host, [memoryPath])}`;
  return overlays.length === 0
    ? {
        code: 'OVERLAY_LEFT',
        message: 'it was deleted, and its overlays are merged, or of no use',
        hint: again,
      }
    : {
        code: 'OVERLAY_LEFT',
        message: `it was deleted; what the domain has written since is in ${overlays.join(', ')}`,
        hint: `${again} --merge merges that into its base`,
      };
}

/** Runs a check of one snapshot. What it cannot find out is a problem of that one, and does not end the list. */
async function tried(problems: Problem[], check: () => Promise<void>): Promise<void> {
  await asFinding(problems, async () => {
    try {
      await check();
    } catch (error) {
      if (error instanceof XlsnapError) throw error;
      throw new CheckError('UNREADABLE', 'it cannot be checked', { cause: error });
    }
  });
}

/** An error of the file system about one snapshot. */
class CheckError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

async function damagedOf(
  damaged: readonly DamagedManifest[],
  keys: readonly string[] | undefined,
): Promise<readonly DamagedSnapshot[]> {
  const list: DamagedSnapshot[] = [];
  for (const { memoryPath, error } of damaged) {
    const identity = await identityOf(memoryPath);
    // By default, a domain's directory has its uuid for a name.
    const known = [identity?.name, identity?.uuid, basename(dirname(memoryPath))];
    const unknown = identity === undefined && !/^[0-9a-f-]{36}$/.test(known[2] ?? '');
    if (keys !== undefined && !unknown && !known.some((key) => key !== undefined && keys.includes(key))) {
      continue;
    }
    list.push({
      name: nameOfFile(memoryPath),
      ...(identity === undefined ? {} : { domain: identity.name }),
      memoryPath,
      manifestPath: manifestPathOf(memoryPath),
      message: error.message,
    });
  }
  return list;
}

/** Whose memory it is; `undefined` for a file that is missing or is not a memory file. */
async function identityOf(memoryPath: string): Promise<{ name: string; uuid: string } | undefined> {
  try {
    return domainIdentity(await readStoredConfig(memoryPath));
  } catch {
    return undefined;
  }
}

/** Asks for each image once, and once who uses which: many snapshots may be in one. */
function askingOnce(host: ImageHost): ImageHost {
  const { storages, snapshotDir, sharedBytes } = host;
  let asked: ReturnType<NonNullable<ImageHost['imagesInUse']>> | undefined;
  return omitUndefined({
    images: remembering(host.images),
    storages,
    snapshotDir,
    sharedBytes,
    imagesInUse: host.imagesInUse && (() => (asked ??= host.imagesInUse?.() ?? Promise.resolve([]))),
  });
}

function remembering(images: Pick<Images, 'info'>): Pick<Images, 'info'> {
  const known = new Map<string, Promise<ImageInfo | undefined>>();
  return {
    info(path, format) {
      const key = `${format}:${path}`;
      const asked = known.get(key) ?? images.info(path, format);
      known.set(key, asked);
      return asked;
    },
  };
}

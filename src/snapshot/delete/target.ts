/** Finds the snapshots that a delete is about. */
import { dirname } from 'node:path';
import type { SnapshotConfig } from '../../config/config.ts';
import { DomainError, UsageError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import {
  byAge,
  type FoundManifest,
  type FoundManifests,
  findManifests,
} from '../../memfile/find-manifests.ts';
import { readManifest } from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import { truePath } from '../images/chain.ts';
import { isLeftOver } from '../list/left-over.ts';
import { searched } from '../list/list.ts';
import { type GivenDomain, givenDomain, ownedBy } from '../list/match.ts';
import { pickNamed } from '../list/named.ts';
import { journalPathOf } from '../naming.ts';
import type { Host } from '../ports.ts';
import { isUnfinished } from '../read-journal.ts';
import { type FoundDelete, findDeletes } from './find.ts';
import type { DeleteRequest } from './types.ts';

/** What a delete is about, by names and manifests alone. */
export interface DeleteTarget {
  readonly given: GivenDomain;
  /** Newest first. */
  readonly snapshots: readonly FoundManifest[];
  /** Deletes of them that were killed, or are under way. */
  readonly unfinished: readonly FoundDelete[];
  /** Everything that was found. */
  readonly all: FoundManifests;
  /** What to lock. */
  readonly keys: readonly string[];
}

/**
 * Finds the snapshots that a request is about. Changes nothing.
 * @param finished names and memory paths of those whose delete has been finished: they need not exist
 * @throws {UsageError} If the request makes no sense, or names a snapshot that does not exist
 * @throws {DomainError} If it is about dom0
 * @throws {ManifestError} If a manifest that was named is damaged
 * @throws {EnvironmentError} If a directory cannot be read
 */
export async function findDeleteTarget(
  host: Host,
  request: DeleteRequest,
  finished: readonly string[] = [],
): Promise<DeleteTarget> {
  checkRequest(request);
  const given = await givenDomain(host, request.domain);
  if (given.running?.domid === 0) {
    throw new DomainError('DOMAIN_NOT_FOUND', 'dom0 has no snapshots', { domid: 0 });
  }
  const wanted = (request.snapshots ?? []).map(toWanted);
  const paths = wanted.flatMap(({ path }) => (path === undefined ? [] : [path]));
  const searchedToo = await searched(host, request.directories);
  const directories = [...searchedToo, ...paths.map((path) => dirname(path))];
  const all = await findManifests(directories, searchedToo);
  const own = await ownedBy(host, all.found, given);
  const deletes = (await findDeletes(directories, searchedToo)).filter(({ head }) =>
    head.keys.some((key) => given.keys.includes(key)),
  );
  const unfinished: FoundDelete[] = [];
  const snapshots: FoundManifest[] = [];
  if (wanted.length === 0 && request.keep === undefined) {
    for (const found of own) if (await isLeftOver(found)) snapshots.push(found);
  } else if (request.keep === undefined) {
    for (const { name, path } of wanted) {
      const begun = deletes.filter(({ head }) => head.name === name || head.memoryPath === path);
      unfinished.push(...begun.filter((one) => !unfinished.includes(one)));
      if (begun.length > 0 || finished.includes(name ?? path)) continue;
      const found =
        path === undefined
          ? pickNamed({ domain: request.domain, name }, searchedToo, own, all)
          : await ofPath(path, all, own, request);
      if (!snapshots.includes(found)) snapshots.push(found);
    }
  } else {
    unfinished.push(...deletes);
    const begun = new Set(deletes.map(({ head }) => head.memoryPath));
    const counted: FoundManifest[] = [];
    for (const found of byAge(own)) {
      const { memoryPath, manifest } = found;
      if (!manifest.name.startsWith(request.prefix ?? '') || begun.has(memoryPath)) continue;
      if (await isWhole(memoryPath)) counted.push(found);
    }
    snapshots.push(...counted.slice(0, Math.max(0, counted.length - request.keep)));
  }
  const keys = new Set([
    ...given.keys,
    ...snapshots.flatMap(({ manifest }) => [manifest.uuid, manifest.domain]),
    ...unfinished.flatMap(({ head }) => head.keys),
  ]);
  return { given, snapshots: [...byAge(snapshots)].reverse(), unfinished, all, keys: [...keys] };
}

/** @throws {UsageError} If options contradict each other */
function checkRequest({ snapshots = [], keep, prefix, merge }: DeleteRequest): void {
  if (keep !== undefined && snapshots.length > 0) {
    throw new UsageError('KEEP', 'give either names of snapshots or the number to keep, not both');
  }
  if (keep !== undefined && merge === true) {
    throw new UsageError(
      'KEEP',
      'give either the number to keep or --merge: the snapshots that are kept need the overlays',
      {
        hint: 'once nothing needs them any more, --merge alone merges those that earlier deletes have left',
      },
    );
  }
  if (keep === undefined && snapshots.length === 0 && merge !== true) {
    throw new UsageError(
      'KEEP',
      'there is nothing to delete: give names of snapshots, the number to keep, or --merge',
    );
  }
  if (keep !== undefined && !(Number.isSafeInteger(keep) && keep > 0)) {
    throw new UsageError('KEEP', `${keep} is not a number of snapshots to keep`);
  }
  if (prefix !== undefined && keep === undefined) {
    throw new UsageError('KEEP', 'a prefix is only for the number of snapshots to keep');
  }
}

/** A snapshot by its name, or by the path of its memory file. */
type Wanted =
  | { readonly name: string; readonly path?: undefined }
  | { readonly name?: undefined; readonly path: string };

/** @throws {UsageError} If a cfgfile has neither `name` nor `memory_path` */
function toWanted(one: string | SnapshotConfig): Wanted {
  if (typeof one === 'string') return { name: one };
  const { memoryPath, name, source } = one;
  if (memoryPath !== undefined) return { path: memoryPath };
  if (name !== undefined) return { name };
  throw new UsageError('NO_MEMORY_PATH', `${source ?? 'the cfgfile'} has neither a memory_path nor a name`, {
    hint: 'give the cfgfile that snapshot-create wrote, or the name of the snapshot',
  });
}

/** The snapshot that a cfgfile names, which must be of the domain. */
async function ofPath(
  memoryPath: string,
  { found, damaged }: FoundManifests,
  own: readonly FoundManifest[],
  { domain }: DeleteRequest,
): Promise<FoundManifest> {
  const real = await truePath(memoryPath);
  for (const one of found) {
    if (one.memoryPath !== memoryPath && (await truePath(one.memoryPath)) !== real) continue;
    if (own.includes(one)) return one;
    const { name, uuid } = { name: one.manifest.domain, uuid: one.manifest.uuid };
    throw new DomainError('OTHER_DOMAIN', `the snapshot is of domain ${name}, not of ${domain}`, {
      hint: `use its name: ${name}`,
      data: { stored: { name, uuid } },
    });
  }
  // Why it cannot be read, or not trusted, if it is there.
  for (const one of damaged) if ((await truePath(one.memoryPath)) === real) throw one.error;
  await readManifest(manifestPathOf(memoryPath));
  throw new UsageError('NO_SNAPSHOT', `there is no manifest ${manifestPathOf(memoryPath)}`, {
    hint: 'without it nothing says what belongs to the snapshot: docs/howto/clean-up.md deletes one by hand',
  });
}

/**
 * Tells whether a snapshot may be one of those that are kept: a manifest is written before its memory file gets its name, so a
 * create that was killed may have left one alone.
 */
async function isWhole(memoryPath: string): Promise<boolean> {
  return (await exists(memoryPath)) && !(await isUnfinished(journalPathOf(memoryPath)));
}

/** Which domain a revert is about: whose the snapshot is, and whether it runs now. */
import { DomainError, UsageError } from '../../core/errors.ts';
import { findSnapshot } from '../../memfile/find-snapshot.ts';
import { configDisks, domainIdentity } from '../../memfile/libxl-config.ts';
import { ManifestError, readManifest } from '../../memfile/manifest.ts';
import { manifestPathOf } from '../../memfile/names.ts';
import { readStoredConfig } from '../../memfile/verify.ts';
import type { RevertRequest } from '../api.ts';
import { domainKeys } from '../domain-lock.ts';
import { toKeys } from '../list/match.ts';
import { checkNames, defaultMemoryPath, snapshotDirOf } from '../naming.ts';
import type { DomainState, Host } from '../ports.ts';
import { parseRiskNames } from '../risks.ts';
import { imagesOf, type RelatedRevert, relatedReverts } from './related.ts';

/** Name and uuid of a domain. */
export interface Identity {
  readonly name: string;
  /** Lower case. */
  readonly uuid: string;
}

export interface RevertTarget {
  readonly memoryPath: string;
  /** Whose the snapshot is, by the memory file's header. */
  readonly stored: Identity;
  /** The domain that is to be destroyed, under whatever uuid it runs now. */
  readonly running: DomainState | undefined;
  /** Journals of reverts that were killed, and concern this domain or the snapshot's images. */
  readonly journals: readonly RelatedRevert[];
  /** What to lock: everything that another operation on the same domain would also lock. */
  readonly keys: readonly string[];
}

/**
 * Finds the memory file and the domain. Reads only headers, and changes nothing.
 * @param warn is called with a text for each journal that cannot be read
 * @throws {UsageError} If the request is wrong
 * @throws {DomainError} If the snapshot is of another domain
 * @throws {MemoryFileError} If there is no memory file, or it is not one
 */
export async function findTarget(
  host: Host,
  request: RevertRequest,
  warn: (message: string) => void = () => {},
): Promise<RevertTarget> {
  // A misspelt name would accept nothing, and be noticed late.
  parseRiskNames(request.accept ?? []);
  const given = await find(host, host.toolstack.findDomain(request.domain));
  const memoryPath = await memoryPathOf(host, request, given);
  const config = await readStoredConfig(memoryPath);
  const stored = domainIdentity(config);
  const running = await runningDomain(host, request.domain, given, stored);
  const own = [...new Set([...domainKeys(stored), ...domainKeys(running)])];
  const images = [
    ...configDisks(config).flatMap(({ path, writable }) => (path === undefined || !writable ? [] : [path])),
    ...(await manifestImages(memoryPath)),
  ];
  const journals = await relatedReverts(snapshotDirOf(host), { keys: own, images }, warn);
  const keys = [...new Set([...own, ...journals.flatMap((journal) => journal.keys)])];
  return { memoryPath, stored, running, journals, keys };
}

async function find(
  host: Host,
  domid: ReturnType<Host['toolstack']['findDomain']>,
): Promise<DomainState | undefined> {
  const found = await domid;
  if (found === undefined) return undefined;
  if (found === 0) throw new DomainError('DOMAIN_NOT_FOUND', 'dom0 cannot be reverted', { domid: 0 });
  return await host.hypervisor.domainState(found);
}

async function memoryPathOf(
  host: Host,
  { config, domain }: RevertRequest,
  given: DomainState | undefined,
): Promise<string> {
  const { memoryPath, name, source } = config;
  checkNames(name, memoryPath);
  if (memoryPath !== undefined) return memoryPath;
  if (name === undefined) {
    throw new UsageError('NO_MEMORY_PATH', `${source ?? 'the cfgfile'} has no memory_path`, {
      hint: 'give the cfgfile that snapshot-create wrote, or add memory_path="…"',
    });
  }
  const directory = snapshotDirOf(host);
  const found = await findSnapshot(directory, name, [...toKeys(domain), ...domainKeys(given)]);
  if (found !== undefined) return found;
  // Whoever reads it reports what is wrong with it.
  if (given !== undefined) return defaultMemoryPath(directory, given.uuid, name);
  throw new UsageError(
    'NO_MEMORY_PATH',
    `there is no snapshot "${name}" of domain ${domain} in ${directory}`,
    {
      hint: 'give the cfgfile that snapshot-create wrote, or add memory_path="…"',
    },
  );
}

/**
 * The domain that runs, if the snapshot is of it: the one that has its uuid, or its name under another uuid. Stored names
 * are names even if they are digits, and so is what the user gives where it is the stored name.
 * @throws {DomainError} If the snapshot is not of the domain given, it runs under another name than the given one,
 * or two domains have its uuid and its name
 */
async function runningDomain(
  host: Host,
  word: string,
  given: DomainState | undefined,
  stored: Identity,
): Promise<DomainState | undefined> {
  const byName = await find(host, host.toolstack.findByName(stored.name));
  const byUuid = await find(host, host.toolstack.findByUuid(stored.uuid));
  const meant = [stored.name, stored.uuid].includes(word) || word.toLowerCase() === stored.uuid;
  if (!meant && given?.uuid !== stored.uuid && given?.name !== stored.name) {
    throw new DomainError('OTHER_DOMAIN', `the snapshot is of domain ${stored.name}, not of ${word}`, {
      hint:
        byUuid === undefined || byUuid.name === stored.name
          ? `use its name: ${stored.name}`
          : `it runs under another name, ${byUuid.name}: use its domid, ${byUuid.domid}`,
      data: { stored },
      domid: given?.domid,
    });
  }
  if (byName !== undefined && byUuid !== undefined && byName.domid !== byUuid.domid) {
    throw new DomainError(
      'NAME_TAKEN',
      `the snapshot's domain runs under another name, ${byUuid.name} (domid ${byUuid.domid}), and another domain has its ` +
        `name, ${stored.name} (domid ${byName.domid}): the domain cannot be restored under that name`,
      {
        domid: byUuid.domid,
        hint: `nothing has been changed; rename one of them with xl rename, or shut it down`,
        data: { stored, domids: [byUuid.domid, byName.domid] },
      },
    );
  }
  // A domain that is just being created has no name yet.
  if (byName === undefined && byUuid !== undefined && byUuid.name !== '' && word === stored.name) {
    throw new DomainError('RENAMED', `the snapshot's domain runs under another name: ${byUuid.name}`, {
      domid: byUuid.domid,
      hint: `use its domid, ${byUuid.domid}`,
    });
  }
  return byUuid ?? byName;
}

/** A manifest that cannot be read is reported by whoever needs it. */
async function manifestImages(memoryPath: string): Promise<readonly string[]> {
  try {
    return imagesOf((await readManifest(manifestPathOf(memoryPath)))?.disks ?? []);
  } catch (error) {
    if (error instanceof ManifestError) return [];
    throw error;
  }
}

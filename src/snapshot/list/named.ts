/** Finds a snapshot of a domain by its name. */
import type { SnapshotConfig } from '../../config/config.ts';
import { readConfigFile } from '../../config/read.ts';
import { UsageError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { nearest } from '../../core/nearest.ts';
import {
  byAge,
  type FoundManifest,
  type FoundManifests,
  findManifests,
  nameOfFile,
} from '../../memfile/find-manifests.ts';
import { configPathOf, manifestPathOf } from '../../memfile/names.ts';
import type { Host } from '../ports.ts';
import { searched } from './list.ts';
import { givenDomain, ofDomain } from './match.ts';

/** Names in a message: the newest. */
const SHOWN_NAMES = 10;

export interface NamedRequest {
  /** Name, uuid or domid. The domain need not run. */
  readonly domain: string;
  /** Of the snapshot. */
  readonly name: string;
  /** Where to look besides the host's own directory. */
  readonly directories?: readonly string[] | undefined;
}

/**
 * Finds the snapshot of that name of a domain, and returns the configuration for a revert to it: that of the cfgfile beside
 * its memory file, or, if there is none, one by its manifest.
 * @throws {UsageError} NO_SNAPSHOT if there is none, AMBIGUOUS_SNAPSHOT if there are several; `data.candidates` has what there is
 * @throws {ConfigError} If its cfgfile cannot be parsed
 * @throws {EnvironmentError} If a directory cannot be read
 */
export async function findSnapshotConfig(host: Host, request: NamedRequest): Promise<SnapshotConfig> {
  const { memoryPath, manifest } = await findNamed(host, request);
  const path = configPathOf(memoryPath);
  if (await exists(path)) return { ...(await readConfigFile(path)), memoryPath };
  return { name: manifest.name, memoryPath };
}

/** @throws {UsageError} If there is none (`NO_SNAPSHOT`), or more than one (`AMBIGUOUS_SNAPSHOT`) */
export async function findNamed(host: Host, request: NamedRequest): Promise<FoundManifest> {
  const directories = await searched(host, request.directories);
  const all = await findManifests(directories);
  const { keys } = await givenDomain(host, request.domain);
  return pickNamed(request, directories, ofDomain(all.found, keys), all);
}

/**
 * Picks the snapshot of that name.
 * @param directories for the message
 * @param some the domain's snapshots
 * @param all everything that was found
 * @throws {UsageError} If there is none (`NO_SNAPSHOT`), or more than one (`AMBIGUOUS_SNAPSHOT`)
 */
export function pickNamed(
  request: Pick<NamedRequest, 'domain' | 'name'>,
  directories: readonly string[],
  some: readonly FoundManifest[],
  all: FoundManifests,
): FoundManifest {
  const { domain, name } = request;
  const own = byAge(some);
  const named = own.filter(({ manifest }) => manifest.name === name);
  const [first] = named;
  if (first !== undefined && named.length === 1) return first;
  if (first !== undefined) throw ambiguous(request, named);
  const torn = all.damaged.filter(({ memoryPath }) => nameOfFile(memoryPath) === name);
  if (torn.length > 0) {
    const messages = torn.map(({ error }) => error.message);
    throw new UsageError(
      'NO_SNAPSHOT',
      `no snapshot "${name}" of domain ${domain} can be read: ${messages.join('; ')}`,
      {
        hint:
          torn.find(({ error }) => error.code === 'MANIFEST_OWNER')?.error.hint ??
          'give the cfgfile of the snapshot instead of its name',
      },
    );
  }
  throw unknown(request, directories, own, all);
}

function ambiguous(
  { domain, name }: Pick<NamedRequest, 'domain' | 'name'>,
  named: readonly FoundManifest[],
): UsageError {
  const lines = named.map(
    ({ memoryPath, manifest }) => `  - ${configPathOf(memoryPath)}, of ${manifest.created}`,
  );
  return new UsageError(
    'AMBIGUOUS_SNAPSHOT',
    `there are ${named.length} snapshots "${name}" of domain ${domain}:\n${lines.join('\n')}`,
    { hint: 'give the path of one of them instead of the name', data: { candidates: candidates(named) } },
  );
}

function unknown(
  { domain, name }: Pick<NamedRequest, 'domain' | 'name'>,
  directories: readonly string[],
  own: readonly FoundManifest[],
  { found }: FoundManifests,
): UsageError {
  const names = own.map(({ manifest }) => manifest.name);
  const more = names.length > SHOWN_NAMES ? `, and ${names.length - SHOWN_NAMES} older ones` : '';
  const there =
    names.length === 0
      ? `there are no snapshots of it in ${directories.join(', ')}`
      : `there are ${names.slice(-SHOWN_NAMES).reverse().join(', ')}${more}`;
  return new UsageError('NO_SNAPSHOT', `there is no snapshot "${name}" of domain ${domain}; ${there}`, {
    hint: `${meant(domain, name, names, found)}xlsnap snapshot-list shows all snapshots; for one that is elsewhere, give its cfgfile`,
    data: { candidates: candidates(own) },
  });
}

/** The snapshot, or the domain, that was probably meant. */
function meant(
  domain: string,
  name: string,
  names: readonly string[],
  found: readonly FoundManifest[],
): string {
  const near =
    names.length > 0
      ? nearest(name, names)
      : nearest(
          domain,
          found.map(({ manifest }) => manifest.domain),
        );
  return near === undefined ? '' : `did you mean ${names.length > 0 ? `"${near}"` : `domain ${near}`}? `;
}

function candidates(some: readonly FoundManifest[]) {
  return some.map(({ memoryPath: path, manifest }) => ({
    path,
    manifestPath: manifestPathOf(path),
    name: manifest.name,
    uuid: manifest.uuid,
    created: manifest.created,
  }));
}

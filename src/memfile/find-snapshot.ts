/** Finds a snapshot by its name. */
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoCode, UsageError, XlsnapError } from '../core/errors.ts';
import { domainIdentity } from './libxl-config.ts';
import { readStoredConfig } from './verify.ts';

/** A memory file with the wanted name. */
interface Candidate {
  readonly path: string;
  readonly name: string;
  readonly uuid: string;
}

/**
 * Finds the memory file of a snapshot whose cfgfile does not say where it is, in the directories that a host
 * has for the snapshots of its domains. A domain has one such directory for each uuid that it has had, so the
 * files' headers decide which domain they belong to.
 * @param keys names and uuids; the snapshot's domain must have one of them
 * @returns `undefined` if there is none
 * @throws {UsageError} AMBIGUOUS_SNAPSHOT if there are several.
 */
export async function findSnapshot(
  directory: string,
  name: string,
  keys: readonly string[],
): Promise<string | undefined> {
  const found: Candidate[] = [];
  for (const path of await filesNamed(directory, `${name}.save`)) {
    const identity = await identityOf(path);
    if (identity !== undefined && keys.some((key) => key === identity.name || key === identity.uuid)) {
      found.push({ path, ...identity });
    }
  }
  const [first] = found;
  if (found.length < 2) return first?.path;
  const list = found.map(
    (snapshot) => `  - ${snapshot.path} of domain ${snapshot.name}, uuid ${snapshot.uuid}`,
  );
  throw new UsageError(
    'AMBIGUOUS_SNAPSHOT',
    `there are ${found.length} snapshots named "${name}":\n${list.join('\n')}`,
    {
      hint: `name one: memory_path="${first?.path}" in the cfgfile, or give the cfgfile beside it`,
      data: { candidates: found },
    },
  );
}

/** Lists the regular files with that name in the subdirectories of a directory. */
async function filesNamed(directory: string, name: string): Promise<readonly string[]> {
  const entries = await readdir(directory, { withFileTypes: true }).catch((error: unknown) => {
    if (errnoCode(error) === 'ENOENT') return [];
    throw error;
  });
  const found: string[] = [];
  for (const entry of entries) {
    const path = join(directory, entry.name, name);
    if ((await stat(path).catch(() => undefined))?.isFile() === true) found.push(path);
  }
  return found.sort();
}

/** Returns the domain of a memory file; `undefined` if the file is not a memory file. */
async function identityOf(path: string): Promise<{ name: string; uuid: string } | undefined> {
  try {
    return domainIdentity(await readStoredConfig(path));
  } catch (error) {
    if (error instanceof XlsnapError) return undefined;
    throw error;
  }
}

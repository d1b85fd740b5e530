/** Checks a memory file, and reads what a revert needs to know about it. */
import { PAGE_SIZE } from '../core/brand.ts';
import { FileSource } from '../core/byte-source.ts';
import type { CallOptions } from '../core/call-options.ts';
import { EXIT, errnoCode, XlsnapError } from '../core/errors.ts';
import {
  type Finding,
  type RecordCount,
  readXlHeader,
  type StreamGuestType,
  verifyStream,
  xlConfigText,
} from '../savefmt/index.ts';
import type { ChecksumOptions } from './checksums.ts';
import { findDamage } from './compare-checksums.ts';
import { type LibxlConfig, parseLibxlConfig } from './libxl-config.ts';
import { type Manifest, ManifestError, NO_MANIFEST, readManifest } from './manifest.ts';
import { manifestPathOf } from './names.ts';
import { PfnCount } from './pfn-count.ts';

/** What a memory file says about itself, once it has been read to its end. */
export interface MemoryFacts {
  readonly config: LibxlConfig;
  /** Version of the Xen that the snapshot was taken on. */
  readonly xen: { readonly major: number; readonly minor: number };
  /** Number of pages that a restore gives the guest; `undefined` if they are too scattered to be counted. */
  readonly pages: number | undefined;
}

/** xl could not restore the memory file. */
export class MemoryFileError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/**
 * Reads a memory file from its header to its end, skipping the pages' content, and checks it against the
 * specifications. Bytes after the end are refused too: the file is not what was written.
 * @throws {MemoryFileError} If it cannot be opened, or anything is wrong with it.
 * @throws {LibxlConfigError} If its configuration is not libxl's.
 * @throws {InterruptedError} If the signal aborted.
 */
export async function readMemoryFacts(path: string, { signal }: CallOptions = {}): Promise<MemoryFacts> {
  await using source = await openMemoryFile(path);
  const count = new PfnCount();
  const { findings, facts } = await verifyStream(source, {
    signal,
    onItem: (item) => {
      if (item.kind === 'libxc-record' && item.record.name === 'PAGE_DATA') count.add(item.record.words);
    },
  });
  const problem = findings.find(({ severity, code }) => severity === 'error' || code === 'TRAILING');
  if (problem !== undefined) {
    throw new MemoryFileError(problem.code, `the memory file ${path} is damaged: ${problem.message}`, {
      offset: problem.offset,
      hint: problem.hint ?? 'nothing has been changed',
      data: { findings },
    });
  }
  if (facts.configText === undefined || facts.xen === undefined) {
    throw new MemoryFileError('INCOMPLETE', `the memory file ${path} does not name its domain`);
  }
  return { config: parseLibxlConfig(facts.configText), xen: facts.xen, pages: count.pages };
}

/** Formats a finding as one line. */
export function findingText({ code, message, offset }: Finding): string {
  const place = ` (at offset ${offset})`;
  // The message of an error has it already.
  const what = message.endsWith(place) ? message.slice(0, -place.length) : message;
  return `${what} (${code}, at offset ${offset})`;
}

/** The contents of a sound memory file. */
export interface MemoryReport {
  readonly path: string;
  /** Number of bytes from the header to the outermost END. */
  readonly bytes: number;
  /** Guest type of libxc's stream; `hvm` includes PVH. */
  readonly guestType: StreamGuestType | undefined;
  /** Version of the Xen that saved it. */
  readonly xen: { readonly major: number; readonly minor: number } | undefined;
  /** Number of pages with data; one that is in the stream n times counts n times. */
  readonly pages: number;
  /** The records, in the order of their first appearance. */
  readonly records: readonly RecordCount[];
  /**
   * `right` if every byte is as it was written; `none` if there is no manifest with checksums beside the
   * file.
   */
  readonly checksums: 'right' | 'none';
  /** What Xen's restore accepts, against the specifications. */
  readonly warnings: readonly Finding[];
}

/** Does what `verifyMemoryFile` says, with the hash that the caller has. */
export async function verifyFile(
  path: string,
  options: CallOptions & Pick<ChecksumOptions, 'xxh3'> = {},
): Promise<MemoryReport> {
  await using source = await openMemoryFile(path);
  const { ok, findings: ofStream, omitted, facts } = await verifyStream(source, { signal: options.signal });
  const manifest = await manifestBeside(path);
  const damage = manifest === undefined ? [] : await findDamage(path, manifest, options);
  const findings = [...ofStream, ...damage];
  if (!ok || damage.length > 0) throw damagedFileError(path, findings, omitted);
  return {
    path,
    bytes: facts.length,
    guestType: facts.guestType,
    xen: facts.xen,
    pages: facts.pages,
    records: facts.records,
    checksums: manifest?.checksums === undefined ? 'none' : 'right',
    warnings: findings,
  };
}

/**
 * Makes the error about a file with errors among its findings.
 * @param omitted number of findings that are not listed
 */
export function damagedFileError(
  path: string,
  findings: readonly Finding[],
  omitted: number,
): MemoryFileError {
  const errors = findings.filter(({ severity }) => severity === 'error');
  const lines = errors.map((finding) => `  ${findingText(finding)}`);
  if (omitted > 0) lines.push(`  and ${omitted} more`);
  return new MemoryFileError('DAMAGED', [`${path} is not a sound save file:`, ...lines].join('\n'), {
    offset: errors[0]?.offset,
    hint: errors.find(({ hint }) => hint !== undefined)?.hint ?? 'use a copy of it, if there is one',
    data: { findings, omitted },
  });
}

/** Reads the manifest of a memory file. A save file of xl may have other JSON beside it. */
async function manifestBeside(path: string): Promise<Manifest | undefined> {
  try {
    return await readManifest(manifestPathOf(path));
  } catch (error) {
    if (error instanceof ManifestError && error.code === NO_MANIFEST) return undefined;
    throw error;
  }
}

/**
 * Reads the configuration in a memory file's header, and nothing after it.
 * @throws {MemoryFileError} If the file cannot be opened.
 * @throws {StreamError} If the header is broken.
 * @throws {LibxlConfigError} If the configuration is not JSON.
 */
export async function readStoredConfig(path: string): Promise<LibxlConfig> {
  await using source = await openMemoryFile(path);
  return parseLibxlConfig(xlConfigText(await readXlHeader(source)));
}

/** Bytes read at a time: pages are skipped, and the head of a record of 1022 pages has 8 KiB. */
const HEAD_WINDOW = 4 * PAGE_SIZE;

/**
 * Opens a memory file.
 * @throws {MemoryFileError} If it cannot be opened.
 */
export async function openMemoryFile(path: string): Promise<FileSource> {
  try {
    return await FileSource.open(path, HEAD_WINDOW);
  } catch (cause) {
    throw unreadable(path, cause);
  }
}

function unreadable(path: string, cause: unknown): MemoryFileError {
  switch (errnoCode(cause)) {
    case 'ENOENT':
    case 'ENOTDIR':
      return path === '-'
        ? new MemoryFileError('MEMORY_FILE', 'a memory file cannot be read from a pipe', {
            hint: 'write the stream to a file, and give that',
          })
        : new MemoryFileError('NO_MEMORY_FILE', `there is no memory file ${path}`, {
            hint: 'xlsnap snapshot-list shows the snapshots',
          });
    case 'EACCES':
    case 'EPERM':
      return new MemoryFileError('MEMORY_FILE', `cannot open the memory file ${path}`, {
        cause,
        hint: 'run it as root: only root may read the memory of guests',
      });
    case 'ENOTSUP':
      return new MemoryFileError('MEMORY_FILE', `${path} is not a memory file`, {
        cause,
        hint: 'give a regular file; what comes from a pipe has to be written to one first',
      });
    default:
      return new MemoryFileError('MEMORY_FILE', `cannot open the memory file ${path}`, { cause });
  }
}

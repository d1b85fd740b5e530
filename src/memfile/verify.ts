/** Checks a memory file, and reads what a revert needs of it. */
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
import { findDamage } from './damage.ts';
import { type LibxlConfig, parseLibxlConfig } from './libxl-config.ts';
import { type Manifest, ManifestError, NO_MANIFEST, readManifest } from './manifest.ts';
import { manifestPathOf } from './names.ts';
import { PfnCount } from './pfn-count.ts';

/** What a memory file says of itself, once it has been read to its end. */
export interface MemoryFacts {
  readonly config: LibxlConfig;
  /** Xen that the snapshot was taken on. */
  readonly xen: { readonly major: number; readonly minor: number };
  /** Pages that a restore gives the guest; `undefined` when they are too scattered to be counted. */
  readonly pages: number | undefined;
}

/** A memory file that xl could not restore. */
export class MemoryFileError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/**
 * Reads a memory file from its header to its end, going over the pages' content, and checks it as the specifications
 * say. Bytes behind the end are refused too: the file is not what was written.
 * @throws MemoryFileError, LibxlConfigError, InterruptedError
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
    throw new MemoryFileError('INCOMPLETE', `the memory file ${path} does not say which domain it is of`);
  }
  return { config: parseLibxlConfig(facts.configText), xen: facts.xen, pages: count.pages };
}

/** A finding in one line. */
export function findingText({ code, message, offset }: Finding): string {
  const place = ` (at offset ${offset})`;
  // That of an error says it already.
  const what = message.endsWith(place) ? message.slice(0, -place.length) : message;
  return `${what} (${code}, at offset ${offset})`;
}

/** What a sound memory file holds. */
export interface MemoryReport {
  readonly path: string;
  /** Bytes from the header to the outermost END. */
  readonly bytes: number;
  /** As libxc's stream has it: `hvm` stands for PVH too. */
  readonly guestType: StreamGuestType | undefined;
  /** Xen that saved it. */
  readonly xen: { readonly major: number; readonly minor: number } | undefined;
  /** Pages with data; one that stands in the stream n times counts n times. */
  readonly pages: number;
  /** In the order of their first appearance. */
  readonly records: readonly RecordCount[];
  /** Whether each byte is as it was written; `none`: there is no manifest with checksums beside it. */
  readonly checksums: 'right' | 'none';
  /** What Xen's restore takes, although the specifications want it otherwise. */
  readonly warnings: readonly Finding[];
}

/**
 * Checks a save file, xl's or ours, from its header to its last byte, and against the manifest that lies beside it, if
 * one does. Needs no Xen.
 * @throws MemoryFileError with all findings, each with its offset, when a restore would refuse the file or make no
 * whole guest of it, or it is not what was written; ManifestError; InterruptedError
 */
export async function verifyMemoryFile(path: string, options: CallOptions = {}): Promise<MemoryReport> {
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

/** The error about a file with findings that are errors. `omitted` counts those that are not listed. */
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

/** The manifest of a memory file. A save file of xl's may have some other JSON beside it. */
async function manifestBeside(path: string): Promise<Manifest | undefined> {
  try {
    return await readManifest(manifestPathOf(path));
  } catch (error) {
    if (error instanceof ManifestError && error.code === NO_MANIFEST) return undefined;
    throw error;
  }
}

/**
 * The configuration in a memory file's header; the rest of the file is not looked at.
 * @throws MemoryFileError, StreamError, LibxlConfigError
 */
export async function readStoredConfig(path: string): Promise<LibxlConfig> {
  await using source = await openMemoryFile(path);
  return parseLibxlConfig(xlConfigText(await readXlHeader(source)));
}

/** Bytes read at a time: the pages are gone over, and the head of a record of 1022 of them has two pages. */
const HEAD_WINDOW = 4 * PAGE_SIZE;

/** @throws MemoryFileError */
export async function openMemoryFile(path: string): Promise<FileSource> {
  try {
    return await FileSource.open(path, HEAD_WINDOW);
  } catch (cause) {
    const missing = errnoCode(cause) === 'ENOENT';
    throw new MemoryFileError(
      missing ? 'NO_MEMORY_FILE' : 'MEMORY_FILE',
      missing ? `there is no memory file ${path}` : `cannot open the memory file ${path}`,
      { cause, hint: 'nothing has been changed' },
    );
  }
}

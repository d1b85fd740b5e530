/**
 * That a domain is tracked: its dirty log was left on by a create, and says what the guest has written since. In a small file on
 * tmpfs, since it holds for this boot only.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { EXIT, errnoCode, OutputError, XlsnapError } from '../../core/errors.ts';
import { Fields } from '../../core/fields.ts';
import { parseJson } from '../../core/json.ts';
import { RUN_DIRECTORY, runDirectory } from '../../core/run-directory.ts';
import { bootId, isOfThisBoot } from '../journal/file.ts';
import type { Places } from '../memory/segment.ts';
import type { Host } from '../ports.ts';

/** What identifies a memory file, and everything that is in it. */
export interface ParentIdentity {
  /** Absolute. */
  readonly path: string;
  readonly dev: number;
  readonly inode: number;
  readonly bytes: number;
  readonly mtimeMs: number;
  /** SHA-256 of its checksums, as its manifest has them, in hexadecimal. */
  readonly sums: string;
}

/** Where the pages are in a memory file. Offsets in bytes. */
export interface MemoryShape {
  /** Length of what comes before the records that allocate pages. */
  readonly prefix: number;
  /** Where the records with pages begin. */
  readonly start: number;
  /** The first byte behind the last of them. */
  readonly end: number;
  /** Pages that were all zeros when they were first copied. */
  readonly zeroPages: number;
  /** Where each page is: a quarter of a byte for each. */
  readonly segments: readonly Places[];
}

/** A track: whose, since when, and where it begins. */
export interface Track {
  readonly domid: number;
  readonly uuid: string;
  readonly domain: string;
  readonly type: 'pvh' | 'hvm';
  /** When the parent was taken, ISO 8601, UTC. */
  readonly since: string;
  /** pfns whose bits are in the log as long as nobody else takes from it; see `LogMarks`. */
  readonly marks: readonly number[];
  readonly parent: ParentIdentity;
  readonly shape: MemoryShape;
}

/** The record cannot be used. */
class TrackError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

const PREFIX = 'track-';
const VERSION = 2;

/** Reads the record of a domain, if there is one of this boot. One that cannot be understood counts as none. */
export function readTrack(host: Pick<Host, 'runDirectory'>, uuid: string): Track | undefined {
  let text: string;
  try {
    text = readFileSync(pathOf(host.runDirectory ?? RUN_DIRECTORY, uuid), 'utf8');
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return toTrack(text, uuid);
  } catch (error) {
    if (error instanceof TrackError || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

/**
 * Writes the record, in place of an earlier one.
 * @throws {OutputError} If it cannot be written
 */
export function writeTrack(host: Pick<Host, 'runDirectory'>, track: Track): void {
  const path = pathOf(runDirectory(host.runDirectory), track.uuid);
  const fresh = `${path}.new`;
  try {
    const head = { format: 'xlsnap-track', version: VERSION, boot: bootId() };
    const segments = track.shape.segments.map(({ start, pages, empty }) => ({
      start,
      pages: Buffer.from(pages).toString('base64'),
      empty: Buffer.from(empty).toString('base64'),
    }));
    const text = JSON.stringify({ ...head, ...track, shape: { ...track.shape, segments } });
    writeFileSync(fresh, `${text}\n`, { mode: 0o600 });
    renameSync(fresh, path);
  } catch (cause) {
    rmSync(fresh, { force: true });
    throw new OutputError('TRACK_RECORD', `cannot write ${path}`, { cause, hint: 'is /run full?' });
  }
}

/**
 * Ends a track: from now on nobody takes what is in the log for all that was written.
 * @returns whether there was a record
 */
export function dropTrack(host: Pick<Host, 'runDirectory'>, uuid: string): boolean {
  try {
    rmSync(pathOf(host.runDirectory ?? RUN_DIRECTORY, uuid));
    return true;
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return false;
    throw error;
  }
}

function pathOf(directory: string, uuid: string): string {
  return join(directory, `${PREFIX}${uuid}`);
}

function toTrack(text: string, uuid: string): Track | undefined {
  const fail = (problem: string): TrackError => new TrackError('TRACK_RECORD', `track record: ${problem}`);
  const fields = new Fields(parseJson(text), fail);
  if (fields.raw('format') !== 'xlsnap-track' || fields.raw('version') !== VERSION) return undefined;
  if (!isOfThisBoot({ boot: fields.raw('boot') }) || fields.text('uuid') !== uuid) return undefined;
  const parent = fields.fields('parent');
  const shape = fields.fields('shape');
  const marks = fields.raw('marks');
  if (!Array.isArray(marks) || !marks.every((pfn) => Number.isSafeInteger(pfn) && Number(pfn) >= 0)) {
    throw fail('marks is not a list of pfns');
  }
  return {
    domid: fields.count('domid'),
    uuid,
    domain: fields.text('domain'),
    type: fields.oneOf('type', ['pvh', 'hvm']),
    since: fields.text('since'),
    marks: marks.map(Number),
    parent: {
      path: parent.text('path'),
      dev: parent.count('dev'),
      inode: parent.count('inode'),
      bytes: parent.count('bytes'),
      mtimeMs: parent.number('mtimeMs'),
      sums: parent.text('sums'),
    },
    shape: {
      prefix: shape.count('prefix'),
      start: shape.count('start'),
      end: shape.count('end'),
      zeroPages: shape.count('zeroPages'),
      segments: shape.list('segments').map((segment) => ({
        start: segment.count('start'),
        pages: Buffer.from(segment.text('pages'), 'base64'),
        empty: Buffer.from(segment.text('empty'), 'base64'),
      })),
    },
  };
}

/** The manifest beside a memory file: its format, reader and writer. */
import { open } from 'node:fs/promises';
import { EXIT, errnoCode, XlsnapError } from '../core/errors.ts';
import { Fields } from '../core/fields.ts';
import { isRecord } from '../core/guards.ts';
import { parseJson } from '../core/json.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import type { GuestType, XenVersion } from '../core/xen.ts';
import { type Checksums, sumsLength } from './checksums.ts';

/** One disk of a snapshot. */
export type SnapshotDisk =
  | { readonly kind: 'internal'; readonly vdev: string; readonly image: string; readonly tag: string }
  | {
      readonly kind: 'external';
      readonly vdev: string;
      /** The image at the snapshot's instant; read-only from then on. */
      readonly base: string;
      readonly baseFormat: string;
      /** The overlay that the domain continues on. */
      readonly overlay: string;
    };

/** A drive that the guest writes to and that its configuration does not name: no snapshot has it. */
export interface UnknownDrive {
  /** As the device model calls it. */
  readonly name: string;
  /** Its image. */
  readonly path: string;
}

/** One phase in the timeline of a call; they run one after the other. */
export interface PhaseTiming {
  readonly name: string;
  /** When it began: seconds since the call did. */
  readonly startSeconds: number;
  readonly seconds: number;
}

/** What identifies a disk's content at the snapshot's instant. */
export interface DiskIdentity {
  readonly vdev: string;
  /** Size of the disk that the guest sees, in bytes. */
  readonly virtualSize: number;
  /** Of an internal snapshot. */
  readonly tag?: TagIdentity;
  /** Of an external one; absent for a block device, whose times say nothing. */
  readonly base?: FileIdentity;
}

/** What QEMU notes of an internal snapshot, and tells it from another one of the same name. */
export interface TagIdentity {
  /** A number, given by QEMU. */
  readonly id: string;
  /** When it was taken, by the host's clock: seconds since 1970, and nanoseconds. */
  readonly dateSec: number;
  readonly dateNsec: number;
  /** How long the machine had run, in nanoseconds; a string, since it may exceed 2^53. */
  readonly vmClockNsec: string;
}

export interface FileIdentity {
  /** Size of the image file, in bytes. */
  readonly bytes: number;
  /** When it was last written to: milliseconds since 1970. */
  readonly mtimeMs: number;
}

/**
 * What create writes beside the memory file, so that revert can check everything before it destroys anything.
 * Readers take later versions' further keys; `version` rises only when an old key changes its meaning.
 */
export interface Manifest {
  readonly format: 'xlsnap-manifest';
  readonly version: 1;
  readonly name: string;
  readonly description: string;
  /** ISO 8601, UTC. */
  readonly created: string;
  readonly state: 'running' | 'paused';
  readonly domain: string;
  readonly uuid: string;
  readonly type: GuestType;
  readonly xen: XenVersion;
  readonly memory: { readonly path: string; readonly bytes: number; readonly pages: number };
  /** Of the memory file; the first version of xlsnap wrote none. */
  readonly checksums?: Checksums;
  readonly disks: readonly SnapshotDisk[];
  /** What identifies the content of each disk; earlier versions of xlsnap wrote none. */
  readonly identities?: readonly DiskIdentity[];
  readonly uncovered: readonly string[];
  /** Drives that the guest wrote to and that its configuration does not name. */
  readonly unknownDrives?: readonly UnknownDrive[];
  /** Version of the guest's QEMU, if it had one. */
  readonly qemu?: string;
  readonly phases: readonly Pick<PhaseTiming, 'name' | 'seconds'>[];
}

/** A manifest that cannot be read as one. */
export class ManifestError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/** Code of the error for JSON that is something else altogether. */
export const NO_MANIFEST = 'NO_MANIFEST';

const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** Minimum length of a stretch: reading shorter ones one by one would take too long. */
const MIN_STRETCH = 64 * 1024;

/**
 * Reads a manifest.
 * @returns `undefined` when there is no such file
 * @throws ManifestError when it is not one, or is of a later version
 */
export async function readManifest(path: string): Promise<Manifest | undefined> {
  let text: string;
  try {
    await using file = await open(path);
    const { size } = await file.stat();
    if (size > MAX_MANIFEST_BYTES) throw manifestError(path, `is larger than ${MAX_MANIFEST_BYTES} bytes`);
    text = await file.readFile('utf8');
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    if (error instanceof XlsnapError) throw error;
    throw manifestError(path, 'cannot be read', error);
  }
  return parseManifest(path, text);
}

/**
 * The manifest that a text is.
 * @param path for the message
 * @throws ManifestError
 */
export function parseManifest(path: string, text: string): Manifest {
  let value: unknown;
  try {
    value = parseJson(text);
  } catch (error) {
    throw manifestError(path, 'is not JSON', error);
  }
  return toManifest(path, value);
}

function toManifest(path: string, value: unknown): Manifest {
  if (!isRecord(value) || value['format'] !== 'xlsnap-manifest') {
    throw manifestError(path, 'is not an xlsnap manifest', undefined, NO_MANIFEST);
  }
  if (value['version'] !== 1) {
    throw manifestError(path, `has version ${String(value['version'])}; this xlsnap knows 1`);
  }
  const top = new Fields(value, (problem) => manifestError(path, `is damaged: ${problem}`));
  const xen = top.fields('xen');
  const memory = top.fields('memory');
  const bytes = memory.count('bytes');
  return omitUndefined({
    format: 'xlsnap-manifest' as const,
    version: 1 as const,
    name: top.text('name'),
    description: top.text('description'),
    created: top.text('created'),
    state: top.oneOf('state', ['running', 'paused']),
    domain: top.text('domain'),
    uuid: top.text('uuid'),
    type: top.oneOf('type', ['pv', 'pvh', 'hvm']),
    xen: { major: xen.count('major'), minor: xen.count('minor'), extra: xen.text('extra') },
    memory: { path: memory.text('path'), bytes, pages: memory.count('pages') },
    checksums: top.optional('checksums', (key) => toChecksums(top.fields(key), bytes)),
    disks: top.list('disks').map(toSnapshotDisk),
    identities: top.optional('identities', (key) => top.list(key).map(toIdentity)),
    uncovered: top.texts('uncovered'),
    unknownDrives: top.optional('unknownDrives', (key) =>
      top.list(key).map((drive) => ({ name: drive.text('name'), path: drive.text('path') })),
    ),
    qemu: top.optional('qemu', (key) => top.text(key)),
    phases: top.list('phases').map((phase) => ({
      name: phase.text('name'),
      seconds: phase.number('seconds'),
    })),
  });
}

function toChecksums(fields: Fields, bytes: number): Checksums {
  const head = fields.count('head');
  const stretch = fields.count('stretch');
  if (stretch < MIN_STRETCH) throw fields.error('stretch', 'is too short');
  const sums = fields.text('sums');
  if (sums.length !== sumsLength(bytes, head, stretch) || !/^[0-9a-f]*$/.test(sums)) {
    throw fields.error('sums', `does not fit a file of ${bytes} bytes`);
  }
  return { algorithm: fields.oneOf('algorithm', ['crc32']), head, stretch, sums };
}

function toIdentity(fields: Fields): DiskIdentity {
  const tag = fields.optional('tag', (key) => fields.fields(key));
  const base = fields.optional('base', (key) => fields.fields(key));
  return omitUndefined({
    vdev: fields.text('vdev'),
    virtualSize: fields.count('virtualSize'),
    tag: tag && {
      id: tag.text('id'),
      dateSec: tag.count('dateSec'),
      dateNsec: tag.count('dateNsec'),
      vmClockNsec: tag.text('vmClockNsec'),
    },
    base: base && { bytes: base.count('bytes'), mtimeMs: base.number('mtimeMs') },
  });
}

/** Reads a disk of a snapshot, in a manifest or a journal. */
export function toSnapshotDisk(fields: Fields): SnapshotDisk {
  const vdev = fields.text('vdev');
  const kind = fields.oneOf('kind', ['internal', 'external']);
  return kind === 'internal'
    ? { kind, vdev, image: fields.text('image'), tag: fields.text('tag') }
    : {
        kind,
        vdev,
        base: fields.text('base'),
        baseFormat: fields.text('baseFormat'),
        overlay: fields.text('overlay'),
      };
}

function manifestError(path: string, problem: string, cause?: unknown, code = 'MANIFEST'): ManifestError {
  return new ManifestError(code, `the manifest ${path} ${problem}`, {
    hint: 'move it away and revert with --accept no-manifest to continue without it',
    cause,
  });
}

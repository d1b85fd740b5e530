/** The manifest beside a memory file: its format, reader and writer. */
import { open } from 'node:fs/promises';
import { EXIT, errnoCode, XlsnapError } from '../core/errors.ts';
import { Fields } from '../core/fields.ts';
import { isRecord } from '../core/guards.ts';
import { parseJson } from '../core/json.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import type { GuestType, XenVersion } from '../core/xen.ts';
import { type Checksums, sumsLength } from './checksums.ts';

/** A disk of a snapshot. */
export type SnapshotDisk =
  | { readonly kind: 'internal'; readonly vdev: string; readonly image: string; readonly tag: string }
  | {
      readonly kind: 'external';
      readonly vdev: string;
      /** The image at the snapshot's instant; not written to from then on. */
      readonly base: string;
      readonly baseFormat: string;
      /** The overlay that the domain continues on. */
      readonly overlay: string;
    }
  | StorageDisk;

/** The image that the guest wrote to until the snapshot. */
export function imageOf(disk: SnapshotDisk): string {
  return disk.kind === 'external' ? disk.base : disk.image;
}

/** A snapshot that the disk's own storage has taken; the domain continues on its disk. */
export interface StorageDisk {
  readonly kind: 'storage';
  readonly vdev: string;
  /** Name of the backend, such as `reflink`. */
  readonly storage: string;
  /** Absolute path of the disk: an image or a volume. */
  readonly image: string;
  /** Absolute path of the snapshot. */
  readonly snapshot: string;
  /** Bytes that a thick LVM snapshot has for what the guest overwrites. */
  readonly store?: number;
}

/** A disk that QEMU has snapshotted, in its image or by an overlay. */
export type QemuDisk = Exclude<SnapshotDisk, StorageDisk>;

export type ExternalDisk = Extract<SnapshotDisk, { kind: 'external' }>;

/** A drive that the guest writes to and that its configuration does not name. No snapshot contains it. */
export interface UnknownDrive {
  /** The device model's name for it. */
  readonly name: string;
  /** Path of its image. */
  readonly path: string;
}

/** A phase in the timeline of a call. Phases run one after the other. */
export interface PhaseTiming {
  readonly name: string;
  /** When it began, in seconds since the call did. */
  readonly startSeconds: number;
  readonly seconds: number;
}

/** What identifies a disk's content at the snapshot's instant. */
export interface DiskIdentity {
  readonly vdev: string;
  /** Size of the disk that the guest sees, in bytes. */
  readonly virtualSize: number;
  /** Identity of the tag, for an internal snapshot. */
  readonly tag?: TagIdentity;
  /** Identity of the base, for an external snapshot; absent for a block device, whose times mean nothing. */
  readonly base?: FileIdentity;
  /** What the storage knows its snapshot by; only the backend that made it can read it. */
  readonly snapshot?: string;
}

/** What QEMU stores about an internal snapshot; distinguishes it from another one of the same name. */
export interface TagIdentity {
  /** A number that QEMU assigned. */
  readonly id: string;
  /** When it was taken by the host's clock, in seconds since 1970; `dateNsec` has the nanoseconds. */
  readonly dateSec: number;
  readonly dateNsec: number;
  /** How long the machine had run, in nanoseconds; a string, since it may exceed 2^53. */
  readonly vmClockNsec: string;
}

export interface FileIdentity {
  /** Size of the image file, in bytes. */
  readonly bytes: number;
  /** When it was last written to, in milliseconds since 1970. */
  readonly mtimeMs: number;
}

/**
 * What a create writes beside the memory file, so that a revert can check everything before it destroys
 * anything. Readers ignore unknown keys of later versions; `version` rises only if an existing key changes
 * its meaning.
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
  /** Checksums of the memory file; absent in files of the first version of xlsnap. */
  readonly checksums?: Checksums;
  readonly disks: readonly SnapshotDisk[];
  /** What identifies the content of each disk; absent in files of early versions of xlsnap. */
  readonly identities?: readonly DiskIdentity[];
  readonly uncovered: readonly string[];
  /** Drives that the guest wrote to and that its configuration does not name. */
  readonly unknownDrives?: readonly UnknownDrive[];
  /** Version of the guest's QEMU, if it had one. */
  readonly qemu?: string;
  readonly phases: readonly Pick<PhaseTiming, 'name' | 'seconds'>[];
}

/** A manifest cannot be read or is not valid. */
export class ManifestError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/** Code of the error for JSON that is not a manifest at all. */
export const NO_MANIFEST = 'NO_MANIFEST';

const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/**
 * Minimum length of a stretch. Nobody writes shorter ones, and reading them one by one would take forever.
 */
const MIN_STRETCH = 64 * 1024;

/**
 * Reads a manifest.
 * @returns `undefined` if there is no such file
 * @throws {ManifestError} If it is not valid, or is of a later version.
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
 * Parses a manifest.
 * @param path for the message
 * @throws {ManifestError} If it is not valid, or is of a later version.
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
  const algorithm = fields.oneOf('algorithm', ['xxh3', 'crc32']);
  if (sums.length !== sumsLength(bytes, { algorithm, head, stretch }) || !/^[0-9a-f]*$/.test(sums)) {
    throw fields.error('sums', `does not fit a file of ${bytes} bytes`);
  }
  return { algorithm, head, stretch, sums };
}

/** Reads what identifies a tag, in a manifest or a journal. */
export function toTagIdentity(fields: Fields): TagIdentity {
  return {
    id: fields.text('id'),
    dateSec: fields.count('dateSec'),
    dateNsec: fields.count('dateNsec'),
    vmClockNsec: fields.text('vmClockNsec'),
  };
}

function toIdentity(fields: Fields): DiskIdentity {
  const tag = fields.optional('tag', (key) => fields.fields(key));
  const base = fields.optional('base', (key) => fields.fields(key));
  return omitUndefined({
    vdev: fields.text('vdev'),
    virtualSize: fields.count('virtualSize'),
    tag: tag && toTagIdentity(tag),
    base: base && { bytes: base.count('bytes'), mtimeMs: base.number('mtimeMs') },
    snapshot: fields.optional('snapshot', (key) => fields.text(key)),
  });
}

/** Reads a disk of a snapshot, in a manifest or a journal. */
export function toSnapshotDisk(fields: Fields): SnapshotDisk {
  const vdev = fields.text('vdev');
  const kind = fields.oneOf('kind', ['internal', 'external', 'storage']);
  switch (kind) {
    case 'internal':
      return { kind, vdev, image: fields.text('image'), tag: fields.text('tag') };
    case 'external':
      return {
        kind,
        vdev,
        base: fields.text('base'),
        baseFormat: fields.text('baseFormat'),
        overlay: fields.text('overlay'),
      };
    case 'storage':
      return omitUndefined({
        kind,
        vdev,
        storage: fields.text('storage'),
        image: fields.text('image'),
        snapshot: fields.text('snapshot'),
        store: fields.optional('store', (key) => fields.count(key)),
      });
  }
}

function manifestError(path: string, problem: string, cause?: unknown, code = 'MANIFEST'): ManifestError {
  return new ManifestError(code, `the manifest ${path} ${problem}`, {
    hint: 'move it away and revert with --accept no-manifest to continue without it',
    cause,
  });
}

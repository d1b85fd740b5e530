/** The manifest beside a memory file: its format, reader and writer. */
import { open } from 'node:fs/promises';
import { EXIT, errnoCode, XlsnapError } from '../core/errors.ts';
import { isRecord } from '../core/guards.ts';
import { parseJson } from '../core/json.ts';
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
    };

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
const SHORTEST_STRETCH = 64 * 1024;

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
    if (size > MAX_MANIFEST_BYTES) throw bad(path, `is larger than ${MAX_MANIFEST_BYTES} bytes`);
    text = await file.readFile('utf8');
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    if (error instanceof XlsnapError) throw error;
    throw bad(path, 'cannot be read', error);
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
    throw bad(path, 'is not JSON', error);
  }
  return checked(path, value);
}

function checked(path: string, top: unknown): Manifest {
  if (!isRecord(top) || top['format'] !== 'xlsnap-manifest') {
    throw bad(path, 'is not an xlsnap manifest', undefined, NO_MANIFEST);
  }
  if (top['version'] !== 1) throw bad(path, `has version ${String(top['version'])}; this xlsnap knows 1`);
  const xen = record(path, 'xen', top['xen']);
  const memory = record(path, 'memory', top['memory']);
  const bytes = count(path, 'memory.bytes', memory['bytes']);
  return {
    format: 'xlsnap-manifest',
    version: 1,
    name: string(path, 'name', top['name']),
    description: string(path, 'description', top['description']),
    created: string(path, 'created', top['created']),
    state: oneOf(path, 'state', top['state'], ['running', 'paused']),
    domain: string(path, 'domain', top['domain']),
    uuid: string(path, 'uuid', top['uuid']),
    type: oneOf(path, 'type', top['type'], ['pv', 'pvh', 'hvm']),
    xen: {
      major: count(path, 'xen.major', xen['major']),
      minor: count(path, 'xen.minor', xen['minor']),
      extra: string(path, 'xen.extra', xen['extra']),
    },
    memory: {
      path: string(path, 'memory.path', memory['path']),
      bytes,
      pages: count(path, 'memory.pages', memory['pages']),
    },
    ...(top['checksums'] === undefined
      ? {}
      : { checksums: checkedChecksums(path, bytes, record(path, 'checksums', top['checksums'])) }),
    disks: list(path, 'disks', top['disks']).map((disk, i) => checkedDisk(path, `disks[${i}]`, disk)),
    ...(top['identities'] === undefined
      ? {}
      : {
          identities: list(path, 'identities', top['identities']).map((one, i) =>
            checkedIdentity(path, `identities[${i}]`, one),
          ),
        }),
    uncovered: list(path, 'uncovered', top['uncovered']).map((v, i) => string(path, `uncovered[${i}]`, v)),
    ...(top['unknownDrives'] === undefined
      ? {}
      : {
          unknownDrives: list(path, 'unknownDrives', top['unknownDrives']).map((drive, i) => {
            const at = record(path, `unknownDrives[${i}]`, drive);
            return {
              name: string(path, `unknownDrives[${i}].name`, at['name']),
              path: string(path, `unknownDrives[${i}].path`, at['path']),
            };
          }),
        }),
    ...(top['qemu'] === undefined ? {} : { qemu: string(path, 'qemu', top['qemu']) }),
    phases: list(path, 'phases', top['phases']).map((phase, i) => {
      const at = record(path, `phases[${i}]`, phase);
      return { name: string(path, 'name', at['name']), seconds: number(path, 'seconds', at['seconds']) };
    }),
  };
}

function checkedChecksums(path: string, bytes: number, value: Readonly<Record<string, unknown>>): Checksums {
  const head = count(path, 'checksums.head', value['head']);
  const stretch = count(path, 'checksums.stretch', value['stretch']);
  if (stretch < SHORTEST_STRETCH) throw bad(path, 'is damaged: checksums.stretch is too short');
  const sums = string(path, 'checksums.sums', value['sums']);
  if (sums.length !== sumsLength(bytes, head, stretch) || !/^[0-9a-f]*$/.test(sums)) {
    throw bad(path, `is damaged: checksums.sums does not fit a file of ${bytes} bytes`);
  }
  return {
    algorithm: oneOf(path, 'checksums.algorithm', value['algorithm'], ['crc32']),
    head,
    stretch,
    sums,
  };
}

function checkedIdentity(path: string, what: string, value: unknown): DiskIdentity {
  const one = record(path, what, value);
  const tag = one['tag'] === undefined ? undefined : record(path, `${what}.tag`, one['tag']);
  const base = one['base'] === undefined ? undefined : record(path, `${what}.base`, one['base']);
  return {
    vdev: string(path, `${what}.vdev`, one['vdev']),
    virtualSize: count(path, `${what}.virtualSize`, one['virtualSize']),
    ...(tag === undefined
      ? {}
      : {
          tag: {
            id: string(path, `${what}.tag.id`, tag['id']),
            dateSec: count(path, `${what}.tag.dateSec`, tag['dateSec']),
            dateNsec: count(path, `${what}.tag.dateNsec`, tag['dateNsec']),
            vmClockNsec: string(path, `${what}.tag.vmClockNsec`, tag['vmClockNsec']),
          },
        }),
    ...(base === undefined
      ? {}
      : {
          base: {
            bytes: count(path, `${what}.base.bytes`, base['bytes']),
            mtimeMs: number(path, `${what}.base.mtimeMs`, base['mtimeMs']),
          },
        }),
  };
}

/**
 * Checks a disk of a snapshot in JSON.
 * @throws {ManifestError} If it is not one.
 */
export function checkedDisk(path: string, what: string, value: unknown): SnapshotDisk {
  const disk = record(path, what, value);
  const vdev = string(path, `${what}.vdev`, disk['vdev']);
  if (oneOf(path, `${what}.kind`, disk['kind'], ['internal', 'external']) === 'internal') {
    return {
      kind: 'internal',
      vdev,
      image: string(path, `${what}.image`, disk['image']),
      tag: string(path, `${what}.tag`, disk['tag']),
    };
  }
  return {
    kind: 'external',
    vdev,
    base: string(path, `${what}.base`, disk['base']),
    baseFormat: string(path, `${what}.baseFormat`, disk['baseFormat']),
    overlay: string(path, `${what}.overlay`, disk['overlay']),
  };
}

function bad(path: string, problem: string, cause?: unknown, code = 'MANIFEST'): ManifestError {
  return new ManifestError(code, `the manifest ${path} ${problem}`, {
    hint: 'move it away and revert with --accept no-manifest to continue without it',
    cause,
  });
}

function record(path: string, what: string, value: unknown): Readonly<Record<string, unknown>> {
  if (isRecord(value)) return value;
  throw bad(path, `is damaged: ${what} is not an object`);
}

function list(path: string, what: string, value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw bad(path, `is damaged: ${what} is not a list`);
}

function string(path: string, what: string, value: unknown): string {
  if (typeof value === 'string') return value;
  throw bad(path, `is damaged: ${what} is not a string`);
}

function number(path: string, what: string, value: unknown): number {
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  throw bad(path, `is damaged: ${what} is not a number`);
}

function count(path: string, what: string, value: unknown): number {
  const given = number(path, what, value);
  if (Number.isSafeInteger(given) && given >= 0) return given;
  throw bad(path, `is damaged: ${what} is not a count`);
}

function oneOf<T extends string>(path: string, what: string, value: unknown, choices: readonly T[]): T {
  const found = choices.find((choice) => choice === value);
  if (found !== undefined) return found;
  throw bad(path, `is damaged: ${what} is not one of ${choices.join(', ')}`);
}

/** Reads a domain configuration as libxl stores it in JSON. */
import { EXIT, XlsnapError } from '../core/errors.ts';
import { isRecord, isUuid } from '../core/guards.ts';
import { parseLibxlJson } from './libxl-json.ts';

/** A domain's configuration as libxl's JSON (`libxl_domain_config`), the form in the header of a save file. */
export type LibxlConfig = Readonly<Record<string, unknown>>;

/** The image of a disk. */
export interface DiskImage {
  readonly vdev: string;
  /** Absolute path. */
  readonly path: string;
  /** `qcow2`, `raw`, … */
  readonly format: string;
}

/** A domain configuration lacks something that all of libxl's have. */
export class LibxlConfigError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/**
 * An entry of `disks` in a libxl configuration (libxl_types.idl, libxl_device_disk), as far as it is used.
 */
export interface ConfigDisk {
  readonly vdev: string;
  readonly path: string | undefined;
  /** libxl's word: `qcow2`, `raw`, `vhd`, …; `undefined` if libxl chooses. */
  readonly format: string | undefined;
  readonly writable: boolean;
  readonly cdrom: boolean;
}

/**
 * Parses the JSON of a save file's header.
 * @throws {LibxlConfigError} If it is not a JSON object.
 */
export function parseLibxlConfig(text: string): LibxlConfig {
  let value: unknown;
  try {
    value = parseLibxlJson(text);
  } catch (cause) {
    throw new LibxlConfigError('LIBXL_CONFIG', 'the domain configuration is not JSON', { cause });
  }
  if (!isRecord(value))
    throw new LibxlConfigError('LIBXL_CONFIG', 'the domain configuration is not an object');
  return value;
}

/**
 * Returns a domain's name and uuid.
 * @throws {LibxlConfigError} If one is missing.
 */
export function domainIdentity(config: LibxlConfig): { name: string; uuid: string } {
  const info = config['c_info'];
  const name = isRecord(info) ? info['name'] : undefined;
  const uuid = isRecord(info) ? info['uuid'] : undefined;
  if (typeof name !== 'string' || typeof uuid !== 'string') {
    throw new LibxlConfigError('LIBXL_CONFIG', 'the domain configuration has no c_info.name or c_info.uuid');
  }
  if (!isUuid(uuid)) {
    throw new LibxlConfigError(
      'LIBXL_CONFIG',
      `the domain configuration's c_info.uuid is not a uuid: ${uuid}`,
    );
  }
  return { name, uuid: uuid.toLowerCase() };
}

/** What a configuration says about its domain. A member is `undefined` if it does not say. */
export interface DomainSummary {
  readonly name: string | undefined;
  readonly uuid: string | undefined;
  /** libxl's word: `pv`, `pvh`, `hvm`. */
  readonly type: string | undefined;
  /** Number of vCPUs at the start. `maxVcpus` is the most that it can have. */
  readonly vcpus: number | undefined;
  readonly maxVcpus: number | undefined;
  /** Memory at the start in bytes. `maxMemoryBytes` is the most that it can have. */
  readonly memoryBytes: number | undefined;
  readonly maxMemoryBytes: number | undefined;
  readonly disks: readonly ConfigDisk[];
}

/** Summarises a domain's configuration, however incomplete. */
export function summarizeConfig(config: LibxlConfig): DomainSummary {
  const { c_info: general, b_info: build } = config;
  const text = (from: unknown, key: string): string | undefined => {
    const value = isRecord(from) ? from[key] : undefined;
    return typeof value === 'string' ? value : undefined;
  };
  const count = (key: string, scale: number): number | undefined => {
    const value = isRecord(build) ? build[key] : undefined;
    return typeof value === 'number' && Number.isSafeInteger(value * scale) ? value * scale : undefined;
  };
  const vcpus = isRecord(build) ? build['avail_vcpus'] : undefined;
  return {
    name: text(general, 'name'),
    uuid: text(general, 'uuid'),
    type: text(general, 'type'),
    vcpus: Array.isArray(vcpus) ? vcpus.length : undefined,
    maxVcpus: count('max_vcpus', 1),
    memoryBytes: count('target_memkb', 1024),
    maxMemoryBytes: count('max_memkb', 1024),
    disks: configDisks(config),
  };
}

/** Returns the disks that a configuration names, except entries without a vdev. */
export function configDisks(config: LibxlConfig): readonly ConfigDisk[] {
  const disks = config['disks'];
  if (!Array.isArray(disks)) return [];
  return disks.flatMap((disk: unknown): ConfigDisk[] => {
    if (!isRecord(disk) || typeof disk['vdev'] !== 'string') return [];
    const path = disk['pdev_path'];
    const format = disk['format'];
    return [
      {
        vdev: disk['vdev'],
        path: typeof path === 'string' && path !== '' ? path : undefined,
        format: typeof format === 'string' ? format : undefined,
        // libxl prints its `int readwrite` and `int is_cdrom` as numbers, and leaves out zeros.
        writable: disk['readwrite'] === 1 || disk['readwrite'] === true,
        cdrom: disk['is_cdrom'] === 1 || disk['is_cdrom'] === true,
      },
    ];
  });
}

/** Tells whether a disk is one that the guest writes to: those need a snapshot. */
export function isVolume({
  writable,
  cdrom,
  path,
}: Pick<ConfigDisk, 'writable' | 'cdrom' | 'path'>): boolean {
  return writable && !cdrom && path !== undefined;
}

/**
 * Returns QEMU's name of a format that libxl writes in configurations and in xenstore
 * (tools/libs/light/libxl_device.c). A format that libxl does not state counts as raw, so that nothing that a
 * guest wrote is taken for a header.
 */
export function qemuFormat(format: string | undefined): string {
  const drivers: Readonly<Record<string, string>> = { aio: 'raw', vhd: 'vpc', empty: 'raw', unknown: 'raw' };
  return format === undefined ? 'raw' : (drivers[format] ?? format);
}

/** Returns the same configuration with other images in some disks. */
export function withImages(config: LibxlConfig, images: readonly DiskImage[]): LibxlConfig {
  const disks = config['disks'];
  if (!Array.isArray(disks)) return config;
  return {
    ...config,
    disks: disks.map((disk: unknown) => {
      if (!isRecord(disk)) return disk;
      const image = images.find((candidate) => candidate.vdev === disk['vdev']);
      return image === undefined ? disk : { ...disk, pdev_path: image.path, format: image.format };
    }),
  };
}

/** Describes guests, and writes their configuration for xl. */
import { LabError } from './errors.ts';

export type GuestType = 'pv' | 'pvh' | 'hvm';
/**
 * `lvm` and `thin` are volumes of the lab's volume group, `raw-xfs` and `raw-btrfs` raw images on file systems with reflinks.
 */
export type DiskFormat = 'qcow2' | 'raw' | 'lvm' | 'thin' | 'raw-xfs' | 'raw-btrfs';

const FORMATS: readonly string[] = ['qcow2', 'raw', 'lvm', 'thin', 'raw-xfs', 'raw-btrfs'];

export interface GuestDisk {
  /**
   * Such as `xvda`. An HVM guest's firmware and kernel also see it as an IDE disk until the PV driver takes
   * over.
   */
  readonly vdev: string;
  readonly format: DiskFormat;
  /** Size of the image, which is created if it does not exist. */
  readonly sizeMiB: number;
  /** Path in dom0. Default: /lab/guests/NAME/VDEV.FORMAT, or where its storage is. */
  readonly path?: string;
  /** Who serves it. Default: `qdisk` for `qcow2` and `raw`, `phy` (blkback) for the others. */
  readonly backend?: 'qdisk' | 'phy';
  /** Whether the disk is read-only; the guest's counter then does not use it. */
  readonly readOnly?: boolean;
}

export interface GuestSpec {
  readonly type: GuestType;
  readonly name: string;
  readonly memoryMiB?: number;
  /** Maximum memory. Default: `memoryMiB`. */
  readonly maxMemoryMiB?: number;
  readonly vcpus?: number;
  readonly disks?: readonly GuestDisk[];
  /** Period of the counter. Default: 100. */
  readonly tickMs?: number;
  /** A second process in the guest that dirties `mib` MiB at `rate` pages per second. */
  readonly dirty?: { readonly mib: number; readonly rate: number };
  /** Lines to append to the guest's configuration file. */
  readonly extraCfg?: readonly string[];
  /** Additional arguments for the guest's kernel. */
  readonly kernelArgs?: string;
  /**
   * `preserve` leaves a guest that rebooted for tests to see; `restart` is xl's own default. Default:
   * `preserve`.
   */
  readonly onReboot?: 'preserve' | 'restart' | 'destroy';
  /** Default: `preserve`. */
  readonly onCrash?: 'preserve' | 'restart' | 'destroy';
  /** Maximum number of boots while the guest dies of a triple fault under emulation. Default: 4. */
  readonly tries?: number;
  /** Time limit for one boot. */
  readonly timeoutMs?: number;
}

export interface GuestFiles {
  readonly dir: string;
  readonly cfg: string;
  readonly console: string;
  readonly disks: readonly (GuestDisk & { readonly path: string })[];
}

export function guestFiles(spec: GuestSpec): GuestFiles {
  if (!/^[a-zA-Z][a-zA-Z0-9_-]{0,30}$/.test(spec.name)) {
    throw new LabError('usage', `not a name for a guest: ${JSON.stringify(spec.name)}`);
  }
  const dir = `/lab/guests/${spec.name}`;
  const disks = (spec.disks ?? []).map((disk) => {
    if (!/^xvd[a-z]$/.test(disk.vdev)) {
      throw new LabError('usage', `not a disk for the counter: ${disk.vdev} (xvda to xvdz)`);
    }
    return { ...disk, path: disk.path ?? diskPath(spec.name, dir, disk) };
  });
  return { dir, cfg: `${dir}/${spec.name}.cfg`, console: consolePath(spec.name), disks };
}

function diskPath(name: string, dir: string, { vdev, format }: GuestDisk): string {
  switch (format) {
    case 'qcow2':
    case 'raw':
      return `${dir}/${vdev}.${format}`;
    case 'lvm':
    case 'thin':
      return `/dev/${VOLUME_GROUP}/${name}-${vdev}`;
    case 'raw-xfs':
    case 'raw-btrfs':
      return `/lab/${format.slice('raw-'.length)}/${name}-${vdev}.raw`;
  }
}

/** A command that creates a disk unless it is there. */
export function diskCommand({ format, sizeMiB, path }: GuestDisk & { readonly path: string }): string {
  const size = `${sizeMiB}M`;
  switch (format) {
    case 'qcow2':
    case 'raw':
      return `[ -e '${path}' ] || qemu-img create -q -f ${format} '${path}' ${size}`;
    case 'lvm':
    case 'thin': {
      const where =
        format === 'lvm' ? `-L ${size} ${VOLUME_GROUP}` : `-V ${size} -T ${VOLUME_GROUP}/${THIN_POOL}`;
      // A new volume may hold what a former one had, which a counter would take for its own.
      return `[ -b '${path}' ] || { /lab/storage lvm && lvcreate -qq -y -n '${path.split('/').at(-1)}' ${where} && dd if=/dev/zero of='${path}' bs=64k count=1 conv=nocreat oflag=direct status=none; }`;
    }
    case 'raw-xfs':
    case 'raw-btrfs':
      return `[ -e '${path}' ] || { /lab/storage ${format.slice('raw-'.length)} && truncate -s ${size} '${path}'; }`;
  }
}

/** The volume group on the lab's extra disk, and its thin pool: `dom0/storage` makes them. */
const VOLUME_GROUP = 'lab';
const THIN_POOL = 'pool';

export function consolePath(name: string): string {
  return `/var/log/xen/guest-${name}.log`;
}

/** Returns the configuration file for xl. */
export function guestConfig(spec: GuestSpec): string {
  const files = guestFiles(spec);
  const writable = files.disks.filter((disk) => disk.readOnly !== true).length;
  const args = [
    'console=hvc0 nokaslr loglevel=6 mitigations=off panic=1',
    // Otherwise an HVM guest's kernel scans 256 PCI buses, each access a trap, which takes minutes.
    spec.type === 'hvm' ? 'pci=noearly tsc=reliable' : '',
    spec.type === 'pvh' ? '' : 'earlyprintk=xen',
    `counter.ms=${spec.tickMs ?? 100} counter.disks=${writable}`,
    spec.dirty === undefined ? '' : `dirty.mib=${spec.dirty.mib} dirty.rate=${spec.dirty.rate}`,
    spec.kernelArgs ?? '',
  ];
  const memory = spec.memoryMiB ?? 128;
  const lines = [
    `name = "${spec.name}"`,
    `type = "${spec.type}"`,
    `memory = ${memory}`,
    `maxmem = ${spec.maxMemoryMiB ?? memory}`,
    `vcpus = ${spec.vcpus ?? 1}`,
    // QEMU's loader for HVM needs the bzImage; for the others the unpacked kernel saves seconds.
    `kernel = "/lab/${spec.type === 'hvm' ? 'vmlinuz' : 'vmlinux'}"`,
    'ramdisk = "/lab/guest.img"',
    `extra = "${args.filter((arg) => arg !== '').join(' ')}"`,
    // target= is last: everything after it is the file's name.
    `disk = [ ${files.disks
      .map((disk) => {
        const access = disk.readOnly === true ? 'ro' : 'rw';
        const {
          vdev,
          path,
          format,
          backend = format === 'qcow2' || format === 'raw' ? 'qdisk' : 'phy',
        } = disk;
        const stated = format === 'qcow2' ? format : 'raw';
        return `"format=${stated},vdev=${vdev},access=${access},backendtype=${backend},target=${path}"`;
      })
      .join(', ')} ]`,
    'on_poweroff = "destroy"',
    `on_reboot = "${spec.onReboot ?? 'preserve'}"`,
    `on_crash = "${spec.onCrash ?? 'preserve'}"`,
    // Without an invariant TSC, Xen would trap every RDTSC.
    'tsc_mode = "native"',
    ...(spec.type === 'hvm' ? ['vnc = 0', 'vga = "none"'] : []),
    ...(spec.extraCfg ?? []),
  ];
  return `${lines.join('\n')}\n`;
}

/** Parses `VDEV:FORMAT:MIB`, or `VDEV:FORMAT:MIB:BACKEND`, of the command line. */
export function parseDisk(text: string): GuestDisk {
  const [vdev = '', format = 'qcow2', size = '64', backend, ...rest] = text.split(':');
  if (
    !isFormat(format) ||
    !/^[1-9]\d*$/.test(size) ||
    (backend !== undefined && backend !== 'qdisk' && backend !== 'phy') ||
    rest.length > 0
  ) {
    throw new LabError(
      'usage',
      `--disk ${text}: expected VDEV:FORMAT:MIB, such as xvda:qcow2:64 or xvda:thin:64; the formats are ${FORMATS.join(', ')}`,
    );
  }
  return { vdev, format, sizeMiB: Number(size), ...(backend === undefined ? {} : { backend }) };
}

function isFormat(text: string): text is DiskFormat {
  return FORMATS.includes(text);
}

/** A domain as `xl list` shows it. */
export interface DomainState {
  readonly domid: number;
  /** xl's letters: r b p s c d. */
  readonly flags: string;
}

export function parseList(text: string): ReadonlyMap<string, DomainState> {
  const domains = new Map<string, DomainState>();
  for (const line of text.split('\n')) {
    const row = /^(\S+)\s+(\d+)\s+\d+\s+\d+\s+([rbpscd-]{6})\s/.exec(line);
    if (row === null) continue;
    const [, name = '', domid = '', flags = ''] = row;
    domains.set(name, { domid: Number(domid), flags: flags.replaceAll('-', '') });
  }
  return domains;
}

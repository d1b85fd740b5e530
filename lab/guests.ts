import { LabError } from './errors.ts';

export type GuestType = 'pv' | 'pvh' | 'hvm';
export type DiskFormat = 'qcow2' | 'raw';

export interface GuestDisk {
  /** `xvda`. An HVM guest's firmware and kernel also see it as an IDE disk until the PV driver takes over. */
  readonly vdev: string;
  readonly format: DiskFormat;
  /** Made when there is no file yet. */
  readonly sizeMiB: number;
  /** In dom0; /lab/guests/NAME/VDEV.FORMAT unless given. */
  readonly path?: string;
  /** No one may write: the guest's counter leaves it alone. */
  readonly readOnly?: boolean;
}

export interface GuestSpec {
  readonly type: GuestType;
  readonly name: string;
  readonly memoryMiB?: number;
  /** What it is promised; `memoryMiB` unless given. */
  readonly maxMemoryMiB?: number;
  readonly vcpus?: number;
  readonly disks?: readonly GuestDisk[];
  /** Counter's period; 100 unless given. */
  readonly tickMs?: number;
  /** A second process in the guest that dirties `mib` MiB at `rate` pages per second. */
  readonly dirty?: { readonly mib: number; readonly rate: number };
  /** More lines for the end of the guest's configuration file. */
  readonly extraCfg?: readonly string[];
  /** More arguments for the guest's kernel. */
  readonly kernelArgs?: string;
  /** `preserve` (the default) leaves a guest that rebooted for tests to see; `restart` is xl's own default. */
  readonly onReboot?: 'preserve' | 'restart' | 'destroy';
  /** `preserve` unless given. */
  readonly onCrash?: 'preserve' | 'restart' | 'destroy';
  /** Boots that may be tried anew when a guest dies of a triple fault under emulation: 4 in all unless given. */
  readonly tries?: number;
  /** Limit of one boot. */
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
    return { ...disk, path: disk.path ?? `${dir}/${disk.vdev}.${disk.format}` };
  });
  return { dir, cfg: `${dir}/${spec.name}.cfg`, console: consolePath(spec.name), disks };
}

export function consolePath(name: string): string {
  return `/var/log/xen/guest-${name}.log`;
}

/** The configuration file for xl. */
export function guestConfig(spec: GuestSpec): string {
  const files = guestFiles(spec);
  const writable = files.disks.filter((disk) => disk.readOnly !== true).length;
  const args = [
    'console=hvc0 nokaslr loglevel=6 mitigations=off panic=1',
    // HVM: else the kernel looks at 256 PCI buses, each access a trap: minutes.
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
    // QEMU's loader for HVM wants the bzImage; for the others the unpacked kernel saves seconds.
    `kernel = "/lab/${spec.type === 'hvm' ? 'vmlinuz' : 'vmlinux'}"`,
    'ramdisk = "/lab/guest.img"',
    `extra = "${args.filter((arg) => arg !== '').join(' ')}"`,
    // target= is last: all behind it is the file's name.
    `disk = [ ${files.disks
      .map((disk) => {
        const access = disk.readOnly === true ? 'ro' : 'rw';
        return `"format=${disk.format},vdev=${disk.vdev},access=${access},backendtype=qdisk,target=${disk.path}"`;
      })
      .join(', ')} ]`,
    'on_poweroff = "destroy"',
    `on_reboot = "${spec.onReboot ?? 'preserve'}"`,
    `on_crash = "${spec.onCrash ?? 'preserve'}"`,
    // Without an invariant TSC Xen would trap every RDTSC.
    'tsc_mode = "native"',
    ...(spec.type === 'hvm' ? ['vnc = 0', 'vga = "none"'] : []),
    ...(spec.extraCfg ?? []),
  ];
  return `${lines.join('\n')}\n`;
}

/** `TYPE:NAME:FORMAT:MIB` of the command line. */
export function parseDisk(text: string): GuestDisk {
  const [vdev = '', format = 'qcow2', size = '64', ...rest] = text.split(':');
  if ((format !== 'qcow2' && format !== 'raw') || !/^[1-9]\d*$/.test(size) || rest.length > 0) {
    throw new LabError('usage', `--disk ${text}: want VDEV:FORMAT:MIB, as xvda:qcow2:64`);
  }
  return { vdev, format, sizeMiB: Number(size) };
}

/** What `xl list` says of a domain. */
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

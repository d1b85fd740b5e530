/** The releases of Xen that the lab can boot. */
import { LabError } from './errors.ts';

/** What differs between these releases. Packages come from the Debian suite. */
export interface Release {
  readonly xen: string;
  readonly suite: string;
  /** Packages of dom0's root file system, in addition to mmdebstrap's minbase. */
  readonly packages: readonly string[];
  /** Packages that are downloaded and unpacked, never installed (no initramfs-tools, no boot loader). */
  readonly unpacked: readonly string[];
  /** Modules in dom0's initrd: those needed to mount the root file system. */
  readonly rootModules: readonly string[];
  /** dom0's Node: the suite's own, or a copy of the one that runs this. */
  readonly node: 'suite' | 'host';
  /** Directory of libxl's private programs in dom0. */
  readonly libexec: string;
}

const common = [
  'busybox-static',
  'dropbear-bin',
  'e2fsprogs',
  'iproute2',
  'kmod',
  'procps',
  'python3',
  'qemu-system-xen',
  'qemu-utils',
  'udev',
  'util-linux',
  'xen-utils-common',
  'xenstore-utils',
  'xz-utils',
  'zstd',
] as const;

export const releases: readonly Release[] = [
  {
    xen: '4.20',
    suite: 'trixie',
    packages: [...common, 'nodejs', 'xen-utils-4.20'],
    unpacked: ['linux-image-amd64', 'xen-hypervisor-4.20-amd64'],
    rootModules: ['virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'],
    node: 'suite',
    libexec: '/usr/lib/xen-4.20',
  },
  {
    xen: '4.17',
    suite: 'bookworm',
    packages: [...common, 'libstdc++6', 'xen-utils-4.17'],
    unpacked: ['linux-image-amd64', 'xen-hypervisor-4.17-amd64'],
    rootModules: ['virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'],
    node: 'host', // the suite's is 18
    libexec: '/usr/lib/xen-4.17',
  },
];

export const defaultXen = '4.20';

export function findRelease(xen: string): Release {
  const release = releases.find((r) => r.xen === xen);
  if (release === undefined) {
    throw new LabError(
      'usage',
      `no lab for Xen ${xen}; the releases are ${releases.map((r) => r.xen).join(' and ')}`,
    );
  }
  return release;
}

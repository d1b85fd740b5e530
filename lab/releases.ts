/** The releases of Xen that the lab can boot. */
import { LabError } from './errors.ts';
import type { XenTree } from './xen-tree.ts';

/** What differs between the releases. Packages come from the Debian suite. */
export interface Release {
  readonly xen: string;
  readonly suite: string;
  /** Packages of dom0's root file system, in addition to mmdebstrap's minbase. */
  readonly packages: readonly string[];
  /** Packages that are downloaded and unpacked, never installed (no initramfs-tools, no boot loader). */
  readonly unpacked: readonly string[];
  /** Directories in dom0 with Xen's programs. */
  readonly programs: readonly string[];
  /** Directory in dom0 of Xen's Python package. */
  readonly python?: string;
  /** Whether Xen can log what a running PV guest writes. */
  readonly shadow: boolean;
  /** Whether HVM guests start: on Xen 4.17 they do not with Debian 12's QEMU below, and a tree needs its own firmware. */
  readonly hvm: boolean;
  /** Xen's hypervisor and tools, if they do not come from packages. */
  readonly tree?: XenTree;
}

const common = [
  'btrfs-progs',
  'busybox-static',
  'dropbear-bin',
  'e2fsprogs',
  'iproute2',
  'kmod',
  'lvm2',
  'nodejs',
  'procps',
  'python3',
  'qemu-system-xen',
  'qemu-utils',
  'thin-provisioning-tools',
  'udev',
  'util-linux',
  'xfsprogs',
  'xz-utils',
  'zstd',
] as const;

/** Libraries that Xen's tools may be linked with. */
const linked = [
  'libbz2-1.0',
  'libfdt1',
  'libjson-c5',
  'liblzma5',
  'liblzo2-2',
  'libncurses6',
  'libnl-route-3-200',
  'libuuid1',
  'libyajl2',
  'libzstd1',
  'zlib1g',
] as const;

export const releases: readonly Release[] = [
  debianRelease('4.20', 'trixie', { shadow: false, hvm: true }),
  debianRelease('4.17', 'bookworm', { shadow: true, hvm: false }),
];

function debianRelease(xen: string, suite: string, can: Pick<Release, 'shadow' | 'hvm'>): Release {
  return {
    xen,
    suite,
    packages: [...common, 'xen-utils-common', `xen-utils-${xen}`, 'xenstore-utils'],
    unpacked: ['linux-image-amd64', `xen-hypervisor-${xen}-amd64`],
    programs: [`/usr/lib/xen-${xen}/bin`],
    python: `/usr/lib/xen-${xen}/lib/python`,
    ...can,
  };
}

/** Returns the release that boots a Xen of one's own, on the suite of the default release. */
export function treeRelease(tree: XenTree): Release {
  return {
    // Not the name of a release of Debian's.
    xen: `${tree.release}-tree`,
    suite: findRelease(defaultXen).suite,
    packages: [...common, ...linked],
    unpacked: ['linux-image-amd64'],
    programs: tree.programs,
    ...(tree.python === undefined ? {} : { python: tree.python }),
    shadow: tree.shadow,
    hvm: tree.hvm,
    tree,
  };
}

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

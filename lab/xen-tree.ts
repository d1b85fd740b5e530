/** A Xen that someone built: its installed tree (hypervisor and tools, as `make install DESTDIR=DIR` leaves them). */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { LabError } from './errors.ts';
import { must } from './proc.ts';

export interface XenTree {
  /** Absolute path of the tree. */
  readonly dir: string;
  /** Such as `4.21`, from the name of libxenctrl. */
  readonly release: string;
  /** Path of the compressed hypervisor in the tree. */
  readonly hypervisor: string;
  /** Directories of Xen's libraries, as dom0 has them. */
  readonly libraries: readonly string[];
  /** Directories with programs, as dom0 has them. */
  readonly programs: readonly string[];
  /** Directory of the Python package `xen`, as dom0 has it. */
  readonly python: string | undefined;
  /** Absolute path under which libxl starts QEMU, as dom0 has it; undefined if it looks in PATH. */
  readonly qemu: string | undefined;
  /** Whether the hypervisor was configured with shadow paging, by which it logs what a running PV guest writes. */
  readonly shadow: boolean;
  /** Whether there is firmware for HVM guests. */
  readonly hvm: boolean;
  /** Changes whenever a file of the tree does. */
  readonly fingerprint: string;
}

/** QEMU in Debian's package qemu-system-xen. */
const DEBIAN_QEMU = '/usr/libexec/xen-qemu-system-i386';

/** What `xl` and its daemons consist of; each is in one of `programs`. */
const PROGRAMS = ['xl', 'xenstored', 'xenconsoled', 'xen-init-dom0', 'xenstore-read'] as const;

/**
 * Looks at a tree.
 * @throws {LabError} If it is not a complete one.
 */
export function readXenTree(dir: string): XenTree {
  const files = filesBelow(dir);
  const missing = (what: string): LabError =>
    new LabError(
      'usage',
      `--xen-tree ${dir}: ${what}; it must be what make install-xen install-tools DESTDIR=… has installed`,
    );
  const named = (pattern: RegExp): string[] => files.filter((file) => pattern.test(file));
  const dirs = (names: readonly string[]): string[] => [...new Set(names.map((name) => `/${parent(name)}`))];

  const [hypervisor, ...others] = named(/^boot\/xen-[^/]*\.gz$/);
  if (hypervisor === undefined) throw missing('there is no hypervisor boot/xen-*.gz');
  if (others.length > 0)
    throw missing(`there are several hypervisors: ${[hypervisor, ...others].join(', ')}`);
  const libxenctrl = named(/\/libxenctrl\.so\.\d+\.\d+(\.\d+)*$/);
  const release = /\.so\.(\d+\.\d+)/.exec(libxenctrl[0] ?? '')?.[1];
  if (release === undefined) throw missing('there is no libxenctrl.so.*');
  const found = PROGRAMS.map((name) => {
    const program = files.find(
      (file) => file.endsWith(`/${name}`) && (statSync(join(dir, file)).mode & 0o111) !== 0,
    );
    if (program === undefined) throw missing(`there is no program ${name}`);
    return program;
  });
  const verifier = named(/\/verify-stream-v2$/);
  const python = named(/\/xen\/migration\/__init__\.py$/)[0];
  const config = named(/^boot\/xen-[^/]*\.config$/)[0];
  const [libxl] = named(/\/libxenlight\.so\.\d+\.\d+(\.\d+)*$/);
  return {
    dir,
    release,
    hypervisor: join(dir, hypervisor),
    libraries: dirs(named(/\/libxen\w+\.so\.\d/)),
    programs: dirs([...found, ...verifier]),
    python: python === undefined ? undefined : `/${parent(parent(parent(python)))}`,
    qemu: libxl === undefined ? undefined : qemuPath(readFileSync(join(dir, libxl), 'latin1')),
    shadow: config !== undefined && /^CONFIG_SHADOW_PAGING=y$/m.test(readFileSync(join(dir, config), 'utf8')),
    hvm: named(/\/hvmloader$/).length > 0,
    fingerprint: files
      .map((file) => {
        const { size, mtimeMs } = statSync(join(dir, file));
        return `${file} ${size} ${mtimeMs}`;
      })
      .join('\n'),
  };
}

/**
 * Puts the tree's tools into dom0's root file system.
 * @param root the root file system, with Debian's QEMU in it
 */
export async function installXenTree(tree: XenTree, root: string): Promise<void> {
  const leftOut = ['./boot', './usr/include', './usr/lib/debug', './usr/share/doc', './usr/share/man'];
  // Root's /lib, /var/run and the like are links, and stay.
  await must('build', 'sh', [
    '-c',
    'from=$1 to=$2; shift 2; tar -C "$from" -cf - "$@" . | tar -C "$to" --keep-directory-symlink -xf -',
    'tar',
    tree.dir,
    root,
    ...leftOut.map((path) => `--exclude=${path}`),
  ]);
  writeFileSync(join(root, 'etc/ld.so.conf.d/00-xen-tree.conf'), `${tree.libraries.join('\n')}\n`);
  await must('build', 'chroot', [root, 'ldconfig']);
  for (const path of [tree.qemu ?? '/usr/bin/qemu-system-i386', '/usr/bin/qemu-system-i386']) {
    if (existsSync(join(root, path))) continue;
    mkdirSync(dirname(join(root, path)), { recursive: true });
    symlinkSync(DEBIAN_QEMU, join(root, path));
  }
}

/** Finds the path of QEMU that libxl was compiled with. */
function qemuPath(libxl: string): string | undefined {
  return /\/[\w./+-]*qemu-system-\w+(?=\0)/.exec(libxl)?.[0];
}

/** Returns the regular files below a directory, relative to it and sorted. */
function filesBelow(dir: string): string[] {
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .sort();
}

function parent(path: string): string {
  return path.slice(0, Math.max(0, path.lastIndexOf('/')));
}

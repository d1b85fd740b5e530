/** Builds the image of a release's dom0 from Debian packages, and caches it. */
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { aptSource } from './apt.ts';
import { LabError } from './errors.ts';
import { ensurePackages } from './packages.ts';
import type { Paths } from './paths.ts';
import { must } from './proc.ts';
import type { Release } from './releases.ts';
import type { StepProgress, Steps } from './timings.ts';
import { installXenTree } from './xen-tree.ts';

/** A folder with everything that QEMU needs to boot one release's dom0. */
export interface Image {
  readonly key: string;
  readonly dir: string;
  readonly disk: string;
  readonly xen: string;
  readonly kernel: string;
  readonly initrd: string;
  readonly sshKey: string;
}

const here = import.meta.dirname;
/** The files that an image is built from; its key covers all of them. */
const sources = [
  'image.ts',
  'releases.ts',
  'xen-tree.ts',
  'dom0/download',
  'dom0/init',
  'dom0/inittab',
  'dom0/start',
  'dom0/storage',
  'guest/counter.c',
  'guest/init',
  'guest/inittab',
] as const;
/** Size of dom0's file system, with space for what the tests save; the file is sparse. */
const diskSize = '12G';
const dom0Modules = [
  'virtio_net',
  'xen-evtchn',
  'xen-gntdev',
  'xen-gntalloc',
  'xen-privcmd',
  'xenfs',
  'xen-blkback',
  'xen-blkfront',
  'loop',
  'nbd',
  'dm-mod',
  'dm-snapshot',
  'dm-thin-pool',
  'xfs',
  'btrfs',
];
const guestModules = ['xen-blkfront'];
/** Modules in dom0's initrd: those needed to mount the root file system. */
const rootModules = ['virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic'];

export function imageKey(release: Release): string {
  const hash = createHash('sha256').update(JSON.stringify(release));
  for (const source of sources) hash.update(`\0${source}\0`).update(readFileSync(join(here, source)));
  return hash.digest('hex').slice(0, 16);
}

function imageAt(dir: string, key: string): Image {
  return {
    key,
    dir,
    disk: join(dir, 'dom0.ext4'),
    xen: join(dir, 'xen'),
    kernel: join(dir, 'vmlinux'),
    initrd: join(dir, 'initrd.img'),
    sshKey: join(dir, 'id_ed25519'),
  };
}

export function imageName(release: Release): string {
  return `xen-${release.xen}-${imageKey(release)}`;
}

/** Returns the image of a release, from the cache or newly built. The caller must hold the lab's lock. */
export async function ensureImage(release: Release, paths: Paths, steps: Steps): Promise<Image> {
  const name = imageName(release);
  const dir = join(paths.images, name);
  const image = imageAt(dir, imageKey(release));
  if (existsSync(join(dir, 'info.json'))) {
    const now = new Date();
    utimesSync(dir, now, now); // pruning keeps what was used last
    return image;
  }
  await ensurePackages('build', steps);
  if (process.getuid?.() !== 0) {
    throw new LabError(
      'host',
      'building a dom0 image needs root, since it installs Debian packages in a folder',
    );
  }
  for (const old of readdirSync(paths.images)) {
    if (old.startsWith('.tmp-')) rmSync(join(paths.images, old), { recursive: true, force: true });
  }
  const temporary = mkdtempSync(join(paths.images, '.tmp-'));
  try {
    await steps.run(
      `image ${release.xen}`,
      `building the dom0 image (Debian ${release.suite}, Xen ${release.xen})`,
      (progress) => build(release, temporary, progress),
    );
    renameSync(temporary, dir);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  prune(paths.images, 'xen-', 2);
  return image;
}

/** Removes all folders except the newest. */
export function prune(folder: string, prefix: string, keep: number): void {
  const byAge = readdirSync(folder)
    .filter((name) => name.startsWith(prefix))
    .map((name) => ({ name, used: statSync(join(folder, name)).mtimeMs }))
    .sort((a, b) => b.used - a.used);
  for (const { name } of byAge.slice(keep)) rmSync(join(folder, name), { recursive: true, force: true });
}

async function build(release: Release, dir: string, progress: StepProgress): Promise<void> {
  const root = join(dir, 'root');
  const debs = join(dir, 'debs');
  const unpacked = join(dir, 'unpacked');
  for (const folder of [debs, unpacked]) mkdirSync(folder);

  await bootstrap(release, root, debs);
  progress.report(0.5);
  for (const deb of readdirSync(debs)) await must('build', 'dpkg-deb', ['-x', join(debs, deb), unpacked]);
  const modules = new ModuleTree(unpacked);
  await modules.prepare();

  const boot = join(unpacked, 'boot');
  const image = imageAt(dir, '');
  const xen = release.tree?.hypervisor ?? join(boot, only(boot, /^xen-.*\.gz$/));
  writeFileSync(image.xen, gunzipSync(readFileSync(xen)));
  const bzImage = join(boot, only(boot, /^vmlinuz-/));
  await extractKernel(bzImage, image.kernel);
  progress.report(0.65);

  await must('build', 'ssh-keygen', [
    '-q',
    '-t',
    'ed25519',
    '-N',
    '',
    '-C',
    'xlsnap-lab',
    '-f',
    image.sshKey,
  ]);
  await dom0Initrd(root, modules, image.initrd);
  const guestInitrd = join(dir, 'guest.img');
  await guestInitramfs(root, modules, guestInitrd);
  progress.report(0.75);

  await modules.copy(join(root, 'usr'), dom0Modules);
  if (release.tree !== undefined) await installXenTree(release.tree, root);
  finishRoot(release, root, image);
  await must('build', 'chroot', [
    root,
    'dropbearkey',
    '-t',
    'ed25519',
    '-f',
    '/etc/dropbear/dropbear_ed25519_host_key',
  ]);
  copyFileSync(bzImage, join(root, 'lab', 'vmlinuz'));
  copyFileSync(image.kernel, join(root, 'lab', 'vmlinux'));
  copyFileSync(guestInitrd, join(root, 'lab', 'guest.img'));
  progress.report(0.8);
  await must('build', 'mkfs.ext4', [
    ...['-q', '-F', '-L', 'dom0', '-m', '0', '-O', '^has_journal,^metadata_csum'],
    ...['-E', 'lazy_itable_init=1', '-d', root, image.disk, diskSize],
  ]);
  const info = { release, kernel: modules.version, debs: readdirSync(debs), made: new Date().toISOString() };
  writeFileSync(join(dir, 'info.json'), `${JSON.stringify(info, null, 2)}\n`);
  for (const name of ['root', 'debs', 'unpacked', 'guest.img']) {
    rmSync(join(dir, name), { recursive: true, force: true });
  }
}

/** Installs packages in `root`, and downloads those that are only unpacked to `debs`. */
async function bootstrap(release: Release, root: string, debs: string): Promise<void> {
  const apt = await aptSource(release.suite);
  const exclude = ['man', 'locale', 'doc', 'info', 'bash-completion'];
  await must(
    'build',
    'mmdebstrap',
    [
      ...['--mode=root', '--variant=minbase', `--include=${release.packages.join(',')}`],
      ...['Apt::Install-Recommends "false";', ...apt.options].map((option) => `--aptopt=${option}`),
      ...exclude.map((name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`),
      `--customize-hook=${join(here, 'dom0/download')}`,
      ...[release.suite, root, apt.line],
    ],
    {
      env: {
        ...process.env,
        DEBS: debs,
        UNPACKED: release.unpacked.join(' '),
        DEBIAN_FRONTEND: 'noninteractive',
      },
    },
  );
  // Nothing of this machine's apt configuration stays in the image.
  rmSync(join(root, 'etc/apt'), { recursive: true, force: true });
  for (const folder of ['var/lib/apt', 'var/cache/apt', 'var/log/apt', 'var/cache/debconf']) {
    rmSync(join(root, folder), { recursive: true, force: true });
  }
  for (const name of ['dpkg.log', 'bootstrap.log', 'alternatives.log']) {
    rmSync(join(root, 'var/log', name), { force: true });
  }
  rmSync(join(root, 'etc/resolv.conf'), { force: true });
}

/** The modules in the kernel package, and what each depends on. */
class ModuleTree {
  readonly #base: string;
  #version = '';

  constructor(unpacked: string) {
    const usr = join(unpacked, 'usr');
    this.#base = existsSync(join(usr, 'lib/modules')) ? usr : unpacked;
  }

  get version(): string {
    return this.#version;
  }

  async prepare(): Promise<void> {
    this.#version = only(join(this.#base, 'lib/modules'), /./);
    await must('build', 'depmod', ['-b', this.#base, this.#version]);
  }

  /** Copies modules with their dependencies to `dest`/lib/modules. Built-in ones are skipped. */
  async copy(dest: string, names: readonly string[]): Promise<void> {
    const from = join(this.#base, 'lib/modules', this.#version);
    const to = join(dest, 'lib/modules', this.#version);
    const files = new Set<string>();
    for (const name of names) {
      const shown = await must('build', 'sh', [
        '-c',
        'modprobe -d "$1" -S "$2" --show-depends "$3" 2>/dev/null || true',
        'modprobe',
        this.#base,
        this.#version,
        name,
      ]);
      for (const line of shown.split('\n')) {
        const file = /^insmod (\S+)/.exec(line)?.[1];
        if (file !== undefined) files.add(file.slice(file.indexOf(this.#version) + this.#version.length + 1));
      }
    }
    mkdirSync(to, { recursive: true });
    for (const file of files) {
      const target = join(to, file);
      mkdirSync(dirname(target), { recursive: true });
      copyFileSync(join(from, file), target);
      // busybox's modprobe reads uncompressed modules best.
      if (target.endsWith('.xz')) await must('build', 'xz', ['-d', '-f', target]);
    }
    for (const name of readdirSync(from)) {
      if (/^modules\.(builtin|order)/.test(name) && !name.endsWith('.bin')) {
        copyFileSync(join(from, name), join(to, name));
      }
    }
    await must('build', 'depmod', ['-b', dest, this.#version]);
  }
}

async function dom0Initrd(root: string, modules: ModuleTree, out: string): Promise<void> {
  const tree = busyboxTree(root, `${out}.tree`, ['sh']);
  mkdirSync(join(tree, 'mnt'));
  await modules.copy(tree, rootModules);
  writeFileSync(join(tree, 'modules'), `${rootModules.join('\n')}\n`);
  install(join(here, 'dom0/init'), join(tree, 'init'), 0o755);
  await cpio(tree, out);
}

async function guestInitramfs(root: string, modules: ModuleTree, out: string): Promise<void> {
  const applets = ['sh', 'echo', 'modprobe'];
  const tree = busyboxTree(root, `${out}.tree`, applets);
  for (const name of ['init', 'poweroff', 'reboot', 'halt']) {
    symlinkSync('/bin/busybox', join(tree, 'sbin', name));
  }
  await modules.copy(tree, guestModules);
  install(join(here, 'guest/init'), join(tree, 'init'), 0o755);
  install(join(here, 'guest/inittab'), join(tree, 'etc/inittab'), 0o644);
  await must('build', 'gcc', [
    ...['-std=gnu11', '-O2', '-static', '-s', '-Wall', '-o', join(tree, 'bin/counter')],
    join(here, 'guest/counter.c'),
  ]);
  await cpio(tree, out);
}

function busyboxTree(root: string, tree: string, applets: readonly string[]): string {
  for (const name of ['bin', 'sbin', 'proc', 'sys', 'dev', 'etc', 'lib']) {
    mkdirSync(join(tree, name), { recursive: true });
  }
  install(join(root, 'usr/bin/busybox'), join(tree, 'bin/busybox'), 0o755);
  for (const name of applets) symlinkSync('busybox', join(tree, 'bin', name));
  return tree;
}

async function cpio(tree: string, out: string): Promise<void> {
  await must('build', 'sh', [
    '-c',
    'cd "$1" && find . | cpio -o -H newc -R 0:0 --quiet >"$2"',
    'cpio',
    tree,
    out,
  ]);
  rmSync(tree, { recursive: true, force: true });
}

function finishRoot(release: Release, root: string, image: Image): void {
  const lab = join(root, 'lab');
  for (const folder of [join(lab, 'sbin'), join(root, 'etc/dropbear'), join(root, 'root/.ssh')]) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }
  for (const folder of ['var/lib/xen', 'var/log/xen', 'usr/local/bin']) {
    mkdirSync(join(root, folder), { recursive: true });
  }
  chmodSync(join(root, 'root'), 0o700);
  install(`${image.sshKey}.pub`, join(root, 'root/.ssh/authorized_keys'), 0o600);
  install(join(here, 'dom0/start'), join(lab, 'start'), 0o755);
  install(join(here, 'dom0/storage'), join(lab, 'storage'), 0o755);
  install(join(here, 'dom0/inittab'), join(root, 'etc/inittab'), 0o644);
  symlinkSync('/bin/busybox', join(lab, 'sbin/init'));
  writeFileSync(join(lab, 'env'), `PATH=$PATH:${release.programs.join(':')}\nXEN=${release.xen}\n`);
  writeFileSync(join(root, 'etc/hostname'), 'dom0\n');
  // Makes Xen's own Python programs usable in place.
  const site = join(root, 'usr/lib/python3/dist-packages');
  mkdirSync(site, { recursive: true });
  if (release.python !== undefined) writeFileSync(join(site, 'xen-tools.pth'), `${release.python}\n`);
  for (const name of ['verify-stream-v2', 'convert-legacy-stream']) {
    for (const folder of release.programs.filter((dir) => existsSync(join(root, dir, name)))) {
      symlinkSync(join(folder, name), join(root, 'usr/local/bin', name));
    }
  }
}

function install(from: string, to: string, mode: number): void {
  cpSync(from, to, { dereference: true });
  chmodSync(to, mode);
}

/** Returns the one matching name in `folder`. */
function only(folder: string, pattern: RegExp): string {
  const [name, ...more] = readdirSync(folder).filter((entry) => pattern.test(entry));
  if (name === undefined || more.length > 0) {
    throw new LabError(
      'build',
      `${basename(folder)}: expected one ${pattern.source}, found ${1 + more.length}`,
    );
  }
  return name;
}

/**
 * Extracts the ELF kernel from a bzImage (Documentation/arch/x86/boot.rst: setup_sects, payload_offset,
 * payload_length). Unpacking it at each boot would take seconds under software emulation.
 */
async function extractKernel(bzImage: string, out: string): Promise<void> {
  const file = readFileSync(bzImage);
  if (file.toString('latin1', 0x202, 0x206) !== 'HdrS')
    throw new LabError('build', 'the kernel is not a bzImage');
  const start = ((file[0x1f1] || 4) + 1) * 512 + file.readUInt32LE(0x248);
  const payload = file.subarray(start, start + file.readUInt32LE(0x24c));
  const magic = payload.toString('hex', 0, 6);
  const unpackers = [
    { hex: 'fd377a585a00', command: 'xz' },
    { hex: '28b52ffd', command: 'zstd' },
    { hex: '1f8b', command: 'gzip' },
  ];
  const unpacker = unpackers.find((u) => magic.startsWith(u.hex));
  if (unpacker === undefined) throw new LabError('build', `unknown kernel compression ${magic}`);
  // The payload ends with its unpacked size in four bytes.
  const packed = `${out}.packed`;
  writeFileSync(packed, payload.subarray(0, unpacker.command === 'gzip' ? undefined : -4));
  await must('build', 'sh', ['-c', '"$1" -dc <"$2" >"$3"', 'unpack', unpacker.command, packed, out]);
  rmSync(packed);
  if (readFileSync(out).toString('latin1', 1, 4) !== 'ELF')
    throw new LabError('build', 'the kernel is not an ELF file');
}

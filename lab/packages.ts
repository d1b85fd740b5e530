/** Installs the packages that the lab needs on this machine. */
import { existsSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { LabError } from './errors.ts';
import { exec, must } from './proc.ts';
import type { Steps } from './timings.ts';

interface Need {
  readonly package: string;
  /** A program or file that exists if the package is installed. */
  readonly proof: string;
}

const toRun: readonly Need[] = [
  { package: 'qemu-system-x86', proof: 'qemu-system-x86_64' },
  { package: 'qemu-utils', proof: 'qemu-img' },
  { package: 'openssh-client', proof: 'ssh' },
];

const toBuild: readonly Need[] = [
  { package: 'mmdebstrap', proof: 'mmdebstrap' },
  { package: 'debian-archive-keyring', proof: '/usr/share/keyrings/debian-archive-keyring.gpg' },
  { package: 'e2fsprogs', proof: 'mkfs.ext4' },
  { package: 'cpio', proof: 'cpio' },
  { package: 'kmod', proof: 'depmod' },
  { package: 'gcc', proof: 'gcc' },
  { package: 'libc6-dev', proof: '/usr/include/stdio.h' },
  { package: 'xz-utils', proof: 'xz' },
  { package: 'zstd', proof: 'zstd' },
  { package: 'gzip', proof: 'gzip' },
];

/**
 * For comparing the FFI layouts with the C headers, for QEMU's commands for Xen, of which a plain QEMU has
 * only stubs, and for the Debian package.
 */
const toTest: readonly Need[] = [
  { package: 'libxen-dev', proof: '/usr/include/xenctrl.h' },
  { package: 'qemu-system-xen', proof: '/usr/libexec/xen-qemu-system-i386' },
  { package: 'lintian', proof: 'lintian' },
];

const purposes = { run: toRun, build: [...toRun, ...toBuild], test: [...toRun, ...toBuild, ...toTest] };

function isThere(need: Need): boolean {
  if (need.proof.startsWith('/')) return existsSync(need.proof);
  const path = `${process.env['PATH'] ?? ''}${delimiter}/usr/sbin${delimiter}/sbin`;
  return path.split(delimiter).some((folder) => folder !== '' && existsSync(join(folder, need.proof)));
}

/** Installs packages that are missing on this machine (as root, with apt), or says how to. */
export async function ensurePackages(purpose: keyof typeof purposes, steps: Steps): Promise<void> {
  const missing = purposes[purpose].filter((need) => !isThere(need));
  if (missing.length === 0) return;
  const names = missing.map((need) => need.package);
  const install = `apt-get install --no-install-recommends ${names.join(' ')}`;
  if (process.getuid?.() !== 0 || !isThere({ package: 'apt', proof: 'apt-get' })) {
    throw new LabError('host', `the lab needs packages that are not installed; run as root:\n  ${install}`);
  }
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  await steps.run('packages', `installing on this machine: ${names.join(' ')}`, async () => {
    const update = await exec('apt-get', ['update', '-q'], { env });
    const done = await exec('apt-get', ['install', '-q', '-y', '--no-install-recommends', ...names], { env });
    if (done.code !== 0) {
      throw new LabError('host', `${install}: exit code ${done.code}\n${update.stderr}${done.stderr}`);
    }
  });
  await must('host', 'qemu-img', ['--version']);
}

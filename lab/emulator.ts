/** Chooses the QEMU that runs the machine: this machine's, or a newer one where this is too old. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { aptSource } from './apt.ts';
import { messageOf } from './errors.ts';
import type { Paths } from './paths.ts';
import { must, tail } from './proc.ts';
import type { Steps } from './timings.ts';

const program = 'qemu-system-x86_64';

/** Packages with the program, its modules, and its firmware. What they depend on, this machine's own QEMU has brought. */
const packages = ['qemu-system-x86', 'qemu-system-common', 'qemu-system-data'];

/** Where Debian's packages keep the BIOS. */
const firmware = '/usr/share/seabios';

/**
 * The first QEMU whose emulation is good enough. Before it, `cmpxchg16b`, which Linux uses in each allocation, now and then left an
 * address in the flags; an interrupt saved that, and its return set TF or NT. Triple faults were much more frequent, too.
 */
const FIRST_GOOD = 8;

/** For each of apt's two commands. */
const TIMEOUT_MS = 180_000;

/** A QEMU to run. */
export interface Emulator {
  readonly program: string;
  /** Arguments that it needs to find its firmware. */
  readonly args: readonly string[];
  /** The first line of `--version`. */
  readonly version: string;
}

/**
 * Returns the QEMU to run. Where this machine's is too old, that is one from the backports of this machine's Debian, unpacked into the
 * lab's folder and never installed; if it cannot be had, a line says so, and this machine's QEMU must do.
 */
export async function findEmulator(paths: Paths, steps: Steps): Promise<Emulator> {
  const own = await emulator(program);
  if (major(own.version) >= FIRST_GOOD) return own;
  const root = join(paths.emulator, 'root');
  try {
    if (!existsSync(root)) {
      await steps.run('emulator', 'fetching a newer QEMU, whose emulation breaks fewer guests', () =>
        fetch(paths.emulator, root),
      );
    }
    const folders = [join(root, 'usr/share/qemu'), firmware];
    const args = folders.flatMap((folder) => ['-L', folder]);
    return await emulator(join(root, 'usr/bin', program), args);
  } catch (error) {
    steps.say(
      `no newer QEMU to be had (${tail(messageOf(error), 1)}); with ${own.version}, more guests die of emulation`,
    );
    return own;
  }
}

async function emulator(path: string, args: readonly string[] = []): Promise<Emulator> {
  const version = (await must('host', path, ['--version'])).split('\n')[0] ?? '';
  return { program: path, args, version };
}

function major(version: string): number {
  return Number(/version (\d+)/.exec(version)?.[1] ?? 0);
}

/** Downloads the packages with a package list of their own, and unpacks them. */
async function fetch(dir: string, root: string): Promise<void> {
  const suite = `${codename()}-backports`;
  const apt = await aptSource(suite);
  const at = (name: string): string => join(dir, name);
  rmSync(dir, { recursive: true, force: true });
  for (const folder of ['lists/partial', 'cache/archives/partial', 'debs', 'unpacked']) {
    mkdirSync(at(folder), { recursive: true });
  }
  writeFileSync(at('sources.list'), `${apt.line}\n`);
  const options = [
    ...[`Dir::Etc::sourcelist=${at('sources.list')}`, 'Dir::Etc::sourceparts=-'],
    ...[`Dir::State::lists=${at('lists')}`, `Dir::Cache=${at('cache')}`, 'APT::Sandbox::User=root'],
  ].flatMap((option) => ['-o', option]);
  const limits = { cwd: at('debs'), timeoutMs: TIMEOUT_MS };
  await must('host', 'apt-get', [...options, '-q', 'update'], limits);
  const names = packages.map((name) => `${name}/${suite}`);
  await must('host', 'apt-get', [...options, '-q', 'download', ...names], limits);
  for (const deb of readdirSync(at('debs'))) {
    await must('host', 'dpkg-deb', ['-x', join(at('debs'), deb), at('unpacked')]);
  }
  for (const left of ['lists', 'cache', 'debs', 'sources.list'])
    rmSync(at(left), { recursive: true, force: true });
  renameSync(at('unpacked'), root);
}

/** The name of this machine's release, such as `bookworm`. */
function codename(): string {
  return /^VERSION_CODENAME=(\w+)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'unknown';
}

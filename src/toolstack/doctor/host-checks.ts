/** Checks what exists on the host, in which version, and whether it works. No check changes anything. */

import { constants } from 'node:fs';
import { access, statfs } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { describeError, errnoCode, XlsnapError } from '../../core/errors.ts';
import { nearestDirectory } from '../../core/files.ts';
import { hasRunDirectory, RUN_DIRECTORY } from '../../core/run-directory.ts';

import { DEFAULT_SNAPSHOT_DIR } from '../../snapshot/naming.ts';
import {
  type AbiProof,
  findLibraries,
  koffiVersion,
  type LibrariesFound,
  libraryHint,
  releaseOf,
  runningXen,
  supportedReleases,
  XenControl,
} from '../../xenctrl/index.ts';
import { XenstoreClient } from '../../xenstore/client.ts';
import { runProgram, searchPath } from '../process/run.ts';
import { findQemus } from '../qemu/programs.ts';
import { isXlWrapper } from '../xl/wrapper.ts';

/** Returns whether xlsnap supports a version of Node, as package.json has it in `engines`. */
export function isSupportedNode(version: string): boolean {
  const [major = 0, minor = 0] = version.split('.').map((part) => Number.parseInt(part, 10));
  return (major === 18 && minor >= 18) || (major === 20 && minor >= 15) || major > 20;
}

/** Time limit in milliseconds for a program that only reports about itself; software emulation is slow. */
const PROGRAM_TIMEOUT_MS = 60_000;
/** Free space in bytes below which there is a warning. */
const LITTLE_ROOM = 1024 ** 3;

/** The result of one check. */
export interface HostCheck {
  /** Stable word. */
  readonly name: string;
  /** `warning`: something works less well, or not for every domain. */
  readonly status: 'ok' | 'warning' | 'failed';
  readonly version?: string | undefined;
  /** What was found, or what is wrong. */
  readonly message: string;
  /** What to do. */
  readonly hint?: string | undefined;
}

type Finding = Omit<HostCheck, 'name'>;

/** Options of the checks. */
export interface HostCheckOptions {
  /** As `HostOptions` has it. */
  readonly untestedXen?: boolean | undefined;
}

/** The checks, in the order of the report: what a later check needs comes first. */
const CHECKS: Readonly<Record<string, (options: HostCheckOptions) => Promise<Finding>>> = {
  node: checkNode,
  root: checkRoot,
  dom0: checkDom0,
  koffi: checkKoffi,
  'xen-libraries': checkLibraries,
  xen: checkXen,
  xenstore: checkXenstore,
  xl: checkXl,
  'qemu-img': checkQemuImg,
  qemu: checkQemu,
  'snapshot-directory': checkSnapshotDirectory,
  'lock-directory': checkLockDirectory,
};

/** Runs all checks. None depends on another, and one that throws has failed. */
export async function checkHost(options: HostCheckOptions = {}): Promise<readonly HostCheck[]> {
  return await Promise.all(
    Object.entries(CHECKS).map(async ([name, check]) => ({
      name,
      ...(await runCheck(() => check(options))),
    })),
  );
}

async function runCheck(check: () => Promise<Finding>): Promise<Finding> {
  try {
    return await check();
  } catch (error) {
    return asFailure(error);
  }
}

/** Turns the error of a check into its finding. */
export function asFailure(error: unknown): Finding {
  return failedCheck(describeError(error), error instanceof XlsnapError ? error.hint : undefined);
}

function failedCheck(message: string, hint?: string): Finding {
  return { status: 'failed', message, hint };
}

async function checkNode(): Promise<Finding> {
  const version = process.versions.node;
  if (isSupportedNode(version)) return { status: 'ok', version, message: process.execPath };
  return {
    ...failedCheck(
      `${process.execPath} is not supported`,
      'install Node 18.18 or later (not 19), or 20.15 or later',
    ),
    version,
  };
}

async function checkRoot(): Promise<Finding> {
  const uid = process.geteuid?.();
  if (uid === 0) return { status: 'ok', message: 'user 0' };
  return failedCheck(
    `running as user ${uid}; only root can use Xen's interface and the guests' images`,
    'run it as root',
  );
}

async function checkDom0(): Promise<Finding> {
  const device = '/dev/xen/privcmd';
  try {
    await access(device, constants.R_OK | constants.W_OK);
  } catch (error) {
    if (errnoCode(error) !== 'ENOENT')
      return failedCheck(`${device}: ${describeError(error)}`, 'run it as root');
    return failedCheck(
      `this system does not run on Xen, or is not a dom0: there is no ${device}`,
      'take snapshots in a dom0; `xlsnap verify` works on any machine',
    );
  }
  const version = await runningXen();
  return { status: 'ok', message: device, version };
}

async function checkKoffi(): Promise<Finding> {
  try {
    return { status: 'ok', version: await koffiVersion(), message: "calls Xen's libraries" };
  } catch (error) {
    return failedCheck(
      `its binary for this system cannot be loaded: ${describeError(error)}`,
      'reinstall xlsnap on this machine; koffi has binaries for Linux on x86-64',
    );
  }
}

async function checkLibraries(): Promise<Finding> {
  return judgeLibraries(await findLibraries(), releaseOf(await runningXen()));
}

/**
 * Judges the libraries that were found: those of the running Xen count, and if none runs, those of any supported release.
 * @param running release of the running Xen, if there is one
 */
export function judgeLibraries(
  { usable, installed, missing }: LibrariesFound,
  running: string | undefined,
): Finding {
  const found = running === undefined ? usable : usable.filter((release) => release === running);
  if (found.length > 0) {
    return {
      status: 'ok',
      version: found.join(', '),
      message: 'libxenctrl, libxenguest, libxenforeignmemory, libxentoollog',
    };
  }
  if (running !== undefined && !installed.includes(running)) {
    const others = installed.length === 0 ? '' : `; libxenctrl ${installed.join(', ')} is`;
    return failedCheck(
      `libxenctrl of the running Xen (${running}) is not installed${others}`,
      libraryHint(running),
    );
  }
  if (installed.length === 0) {
    return failedCheck(
      'libxenctrl is not installed',
      `install xl and its libraries; xlsnap supports Xen ${supportedReleases()}`,
    );
  }
  const problems = missing
    .filter(({ library }) => running === undefined || concerns(library, running))
    .map(({ library, error }) => `${library}: ${describeError(error)}`);
  return failedCheck(problems.join('; '), 'install all the Xen libraries of the running Xen');
}

/** Tells whether a library is of that release, or of none in particular. */
function concerns(library: string, release: string): boolean {
  return library.endsWith(`.so.${release}`) || !/\.so\.\d+\.\d+$/.test(library);
}

/** What the report says about each release. */
const PROOFS: Readonly<Record<AbiProof, string>> = {
  'real-xen': 'xlsnap is tested on real Xen of this release',
  headers: 'xlsnap knows this release by its headers, and is not tested on it',
  none: 'xlsnap does not know this release; HVM and PVH guests will probably work, PV guests do not',
};

async function checkXen({ untestedXen = false }: HostCheckOptions): Promise<Finding> {
  await using xen = await XenControl.open({ untested: untestedXen });
  const { major, minor, extra } = xen.version;
  return { ...judgeProof(xen.proof), version: `${major}.${minor}${extra}` };
}

/** Judges a Xen that answers. */
export function judgeProof(proof: AbiProof): Finding {
  const message = `answers hypercalls; ${PROOFS[proof]}`;
  if (proof !== 'none') return { status: 'ok', message };
  return {
    status: 'warning',
    message,
    hint: 'look for a newer xlsnap; test a snapshot and a revert of a guest that you can lose',
  };
}

async function checkXenstore(): Promise<Finding> {
  await using xenstore = await XenstoreClient.connect();
  const domains = await xenstore.list('/local/domain');
  return { status: 'ok', message: `answers; domains known: ${domains.length}` };
}

async function checkXl(): Promise<Finding> {
  const { status, stdout, stderr } = await runProgram('xl', ['info'], { timeoutMs: PROGRAM_TIMEOUT_MS });
  if (status !== 0) {
    const words = stderr.trim().split('\n').at(-1) ?? '';
    return failedCheck(`xl info: exit code ${status}: ${words}`, 'xl works in a dom0, as root');
  }
  const [, version] = /^xen_version *: *(\S+)/m.exec(stdout) ?? [];
  const path = await inPath('xl');
  const wrapped = path !== undefined && (await isXlWrapper(path));
  const message = `${path ?? 'xl'}${wrapped ? ', the xlsnap wrapper' : ''}`;
  return { status: 'ok', message, version };
}

async function checkQemuImg(): Promise<Finding> {
  const { status, stdout, stderr } = await runProgram('qemu-img', ['--version'], {
    timeoutMs: PROGRAM_TIMEOUT_MS,
  });
  const [, version] = /version (\S+)/.exec(stdout) ?? [];
  if (status !== 0 || version === undefined) return failedCheck(`qemu-img --version: ${stderr.trim()}`);
  return { status: 'ok', version, message: (await inPath('qemu-img')) ?? 'qemu-img' };
}

/** Finds the device models for new domains. That of a running domain is asked by QMP. */
async function checkQemu(): Promise<Finding> {
  const [first, ...others] = await findQemus();
  if (first !== undefined) {
    const more = others.map(({ path, version }) => `${path} (${version})`).join(', ');
    return {
      status: 'ok',
      version: first.version,
      message: more === '' ? first.path : `${first.path}; there are also ${more}`,
    };
  }
  return {
    status: 'warning',
    message: 'no QEMU for Xen was found: only PV and PVH domains without qcow2 disks can run',
    hint: 'install QEMU for Xen: on Debian it is in the package qemu-system-xen',
  };
}

async function checkSnapshotDirectory(): Promise<Finding> {
  const directory = await nearestDirectory(DEFAULT_SNAPSHOT_DIR);
  const which =
    directory === DEFAULT_SNAPSHOT_DIR ? directory : `${DEFAULT_SNAPSHOT_DIR}, to be created in ${directory}`;
  try {
    await access(directory, constants.W_OK | constants.X_OK);
  } catch (error) {
    return failedCheck(
      `${which}: ${describeError(error)}`,
      'run it as root; a memory_path may be elsewhere, but reverts keep their journals there',
    );
  }
  const { bavail, bsize } = await statfs(directory);
  const room = bavail * bsize;
  const message = `${which}: ${Math.floor(room / 2 ** 20)} MiB free`;
  if (room >= LITTLE_ROOM) return { status: 'ok', message };
  return { status: 'warning', message, hint: "a memory file may need as much as the domain's memory" };
}

async function checkLockDirectory(): Promise<Finding> {
  if (hasRunDirectory()) return { status: 'ok', message: RUN_DIRECTORY };
  const directory = await nearestDirectory(RUN_DIRECTORY);
  await access(directory, constants.W_OK | constants.X_OK);
  return { status: 'ok', message: `${RUN_DIRECTORY}, to be created in ${directory}` };
}

/** Returns the first program of that name in the directories that runProgram searches. */
async function inPath(name: string): Promise<string | undefined> {
  for (const directory of searchPath().split(delimiter)) {
    const path = join(directory, name);
    if (await isExecutable(path)) return path;
  }
  return undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

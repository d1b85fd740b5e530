/** Chooses the table for the running Xen, and says what is wrong if there is none. */
import { readFile } from 'node:fs/promises';
import { EnvironmentError } from '../core/errors.ts';
import { ABIS, type Abi } from './abi.ts';

/** Room in bytes for structs of a release whose headers nobody has seen: more than they have ever had. */
const UNKNOWN_STRUCT = 4096;

/** Where the kernel says which Xen it runs on (Linux, Documentation/ABI/stable/sysfs-hypervisor-xen). */
const SYSFS_VERSION = '/sys/hypervisor/version';

/** Returns what the kernel says about the Xen below it, such as `4.20.4-pre`; undefined if there is none. */
export async function runningXen(directory = SYSFS_VERSION): Promise<string | undefined> {
  try {
    const [major, minor, extra] = await Promise.all(
      ['major', 'minor', 'extra'].map((name) => readFile(`${directory}/${name}`, 'utf8')),
    );
    return `${major?.trim()}.${minor?.trim()}${extra?.trim()}`;
  } catch {
    return undefined;
  }
}

/** Returns `4.20` for `4.20.4-pre`; undefined if the text does not begin with a release. */
export function releaseOf(version: string | undefined): string | undefined {
  return /^\d+\.\d+/.exec(version ?? '')?.[0];
}

/** Returns the supported releases as text, `4.22, 4.21, … and 4.17`. */
export function supportedReleases(): string {
  const releases = ABIS.map(({ release }) => release);
  return `${releases.slice(0, -1).join(', ')} and ${releases.at(-1)}`;
}

/** Returns the table of a supported release; undefined for others. */
export function knownAbi(release: string): Abi | undefined {
  return ABIS.find((abi) => abi.release === release);
}

/**
 * Returns the table for a release, supported or not. One that is newer than all supported ones is taken to be as the newest of them,
 * except for raw domctls: no release so far has changed what HVM and PVH guests need, the functions of libxenctrl and the
 * start of xc_domaininfo_t. Structs that the libraries fill have more room, in case they have grown.
 * @param untested whether a newer release may be used at all
 * @throws {EnvironmentError} If the release is older than all supported ones (XEN_UNSUPPORTED), or newer and `untested` is false
 * (XEN_UNTESTED).
 */
export function abiFor(release: string, untested: boolean): Abi {
  const known = knownAbi(release);
  if (known !== undefined) return known;
  const [newest] = ABIS;
  if (newest === undefined || !isNewer(release, newest.release)) {
    throw new EnvironmentError('XEN_UNSUPPORTED', `Xen ${release} runs, which xlsnap does not support`, {
      hint: `xlsnap supports Xen ${supportedReleases()}`,
    });
  }
  if (!untested) throw untestedXen(release);
  const { domainInfo, pvCalls } = newest;
  return {
    ...newest,
    release,
    proof: 'none',
    domctlInterfaceVersion: undefined,
    domainInfo: { ...domainInfo, size: UNKNOWN_STRUCT },
    hypercallBufferSize: UNKNOWN_STRUCT,
    pvCalls: { ...pvCalls, xen_sysctl_physinfo: { ...pvCalls.xen_sysctl_physinfo, size: UNKNOWN_STRUCT } },
  };
}

function isNewer(release: string, than: string): boolean {
  const [major = 0, minor = 0] = release.split('.').map(Number);
  const [otherMajor = 0, otherMinor = 0] = than.split('.').map(Number);
  return major > otherMajor || (major === otherMajor && minor > otherMinor);
}

function untestedXen(release: string): EnvironmentError {
  return new EnvironmentError(
    'XEN_UNTESTED',
    `Xen ${release} runs, which is newer than the releases that xlsnap knows`,
    {
      data: { release, supported: ABIS.map((abi) => abi.release) },
      hint: `look for a newer xlsnap; or add --untested-xen: HVM and PVH guests will probably work, and a self-test comes first (xlsnap knows Xen ${supportedReleases()})`,
    },
  );
}

/** The running Xen is supported, but its libraries cannot be used. */
export function missingLibraries(release: string, cause: unknown): EnvironmentError {
  return new EnvironmentError('XEN_LIBRARY', `the libraries of the running Xen (${release}) cannot be used`, {
    cause,
    hint: libraryHint(release),
  });
}

/** Which packages bring the libraries of a release. */
export function libraryHint(release: string): string {
  return `install libxenctrl.so.${release} and libxenguest.so.${release}: they come with xl, in the package xen-utils-${release} (Debian, Ubuntu) or xen-libs (Fedora, openSUSE, Alpine, Qubes OS)`;
}

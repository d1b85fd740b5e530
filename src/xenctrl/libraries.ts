/** Finds the libraries of the running Xen. */
import { readdir, readFile } from 'node:fs/promises';
import { ABIS } from './abi.ts';
import { FOREIGNMEMORY, TOOLLOG, XENCTRL, XENCTRL_PRIVATE, XENGUEST } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';

/** Xen's libraries on this machine. */
export interface LibrariesFound {
  /** Releases whose libxenctrl and libxenguest have all functions that are called. */
  readonly usable: readonly string[];
  /** Releases whose libxenctrl is in the usual directories, tested or not. */
  readonly installed: readonly string[];
  /** Libraries that cannot be used, each with the reason. */
  readonly missing: readonly { readonly library: string; readonly error: unknown }[];
}

/** Where distributions put libraries. The loader's own search decides what is usable. */
const DIRECTORIES: readonly string[] = [
  '/usr/lib/x86_64-linux-gnu',
  '/usr/lib64',
  '/usr/lib',
  '/lib64',
  '/usr/local/lib',
  '/usr/local/lib64',
];

/** Returns koffi's version. Throws if koffi's binary cannot be loaded here. */
export async function koffiVersion(): Promise<string> {
  return (await loadKoffi()).version;
}

/** Loads Xen's libraries one by one, without calling any function. */
export async function findLibraries(): Promise<LibrariesFound> {
  const koffi = await loadKoffi();
  const missing: { library: string; error: unknown }[] = [];
  const loads = (library: Parameters<typeof bind>[1], release?: string): boolean => {
    try {
      bind(koffi, library, release);
      return true;
    } catch (error) {
      missing.push({ library: library.soname.replace('%', release ?? ''), error });
      return false;
    }
  };
  const common = [TOOLLOG, FOREIGNMEMORY].map((library) => loads(library));
  const usable = ABIS.map(({ release }) => release).filter((release) =>
    [XENCTRL, XENCTRL_PRIVATE, XENGUEST].every((library) => loads(library, release)),
  );
  return { usable: common.every(Boolean) ? usable : [], installed: await installedReleases(), missing };
}

/**
 * Returns the version of the running Xen as the kernel reports it, such as `4.20.4-pre`; undefined if there
 * is no Xen.
 */
export async function runningXen(): Promise<string | undefined> {
  try {
    const [major, minor, extra] = await Promise.all(
      ['major', 'minor', 'extra'].map((name) => readFile(`/sys/hypervisor/version/${name}`, 'utf8')),
    );
    return `${major?.trim()}.${minor?.trim()}${extra?.trim()}`;
  } catch {
    return undefined;
  }
}

async function installedReleases(): Promise<readonly string[]> {
  const found = new Set<string>();
  for (const directory of DIRECTORIES) {
    for (const name of await readdir(directory).catch(() => [])) {
      const [, release] = /^libxenctrl\.so\.(\d+\.\d+)$/.exec(name) ?? [];
      if (release !== undefined) found.add(release);
    }
  }
  return [...found].sort();
}

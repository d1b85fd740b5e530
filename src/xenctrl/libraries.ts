/** Finds the libraries of the running Xen. */
import { readdir } from 'node:fs/promises';
import { ABIS } from './abi.ts';
import { FOREIGNMEMORY, TOOLLOG, XENCTRL, XENCTRL_PRIVATE, XENGUEST } from './declarations.ts';
import { bind, loadKoffi } from './native.ts';
import { releaseOf, runningXen } from './release.ts';

/** Xen's libraries on this machine. */
export interface LibrariesFound {
  /** Releases whose libxenctrl and libxenguest have all functions that are called. */
  readonly usable: readonly string[];
  /** Releases whose libxenctrl is in the usual directories, supported or not. */
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

/** Loads Xen's libraries one by one, those of the running Xen too if it is not supported, without calling any function. */
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
  const running = releaseOf(await runningXen());
  const releases = new Set([
    ...(running === undefined ? [] : [running]),
    ...ABIS.map(({ release }) => release),
  ]);
  const usable = [...releases].filter((release) =>
    [XENCTRL, XENCTRL_PRIVATE, XENGUEST].every((library) => loads(library, release)),
  );
  return { usable: common.every(Boolean) ? usable : [], installed: await installedReleases(), missing };
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

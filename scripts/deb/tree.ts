/** Puts the files of the npm package, and what it needs at run time, where Debian's policy wants them. */
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { filesBelow, gzip, put } from './files.ts';

const root = join(import.meta.dirname, '../..');

/** The fields of a package in package-lock.json that are used. */
interface LockedPackage {
  readonly dev?: boolean;
  readonly os?: readonly string[];
  readonly cpu?: readonly string[];
}

/**
 * What a dependency needs to run: not its C++ sources, what compiles them, declarations and
 * documents, nor its binary for musl.
 */
const NEEDED_TO_RUN = /^(?!musl_|cnoke\.)(.*\/)?(package\.json|[^/]+\.([cm]?js|node))$/;

/**
 * Fills the tree of the Debian package.
 * @param tree an empty directory, the root of the tree
 * @param unpacked the files of the npm package
 */
export function fillTree(tree: string, unpacked: string): void {
  const lib = join(tree, 'usr/lib/xlsnap');
  const doc = join(tree, 'usr/share/doc/xlsnap');
  const copy = (name: string, to: string): void => cpSync(join(unpacked, name), to, { recursive: true });
  for (const name of ['package.json', 'dist']) copy(name, join(lib, name));
  for (const name of ['README.md', 'CHANGELOG.md', 'ARCHITECTURE.md', 'docs', 'examples']) {
    copy(name, join(doc, name));
  }
  for (const folder of runtimePackages()) {
    const from = join(root, folder);
    for (const name of filesBelow(from).filter((path) => NEEDED_TO_RUN.test(path))) {
      put(join(lib, folder, name), readFileSync(join(from, name)));
    }
  }
  mkdirSync(join(tree, 'usr/bin'));
  symlinkSync('../lib/xlsnap/dist/cli/main.js', join(tree, 'usr/bin/xlsnap'));
  for (const name of readdirSync(join(unpacked, 'dist/man'))) {
    const page = gzip(readFileSync(join(unpacked, 'dist/man', name)));
    put(join(tree, `usr/share/man/man${name.at(-1)}`, `${name}.gz`), page);
  }
  const completion = (shell: string): string =>
    execFileSync(process.execPath, [join(lib, 'dist/cli/main.js'), 'completion', shell], {
      encoding: 'utf8',
    });
  put(join(tree, 'usr/share/bash-completion/completions/xlsnap'), completion('bash'));
  put(join(tree, 'usr/share/zsh/vendor-completions/_xlsnap'), completion('zsh'));
  for (const name of ['xlsnap-nightly@.service', 'xlsnap-nightly@.timer']) {
    copy(`systemd/${name}`, join(tree, 'usr/lib/systemd/system', name));
  }
  copy('systemd/xlsnap-nightly', join(tree, 'usr/libexec/xlsnap-nightly'));
}

/** Returns the directories of the packages that xlsnap needs at run time on Linux on x86-64. */
function runtimePackages(): string[] {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Readonly<Record<string, LockedPackage>>;
  };
  const fits = (allowed: readonly string[] | undefined, one: string): boolean =>
    allowed === undefined || allowed.includes(one);
  return Object.entries(packages)
    .filter(
      ([folder, { dev, os, cpu }]) => folder !== '' && dev !== true && fits(os, 'linux') && fits(cpu, 'x64'),
    )
    .map(([folder]) => folder);
}

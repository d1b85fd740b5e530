/** Builds the Debian package from the files of the npm package and of its dependencies. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { editionTime } from '../edition.ts';
import { filesBelow, gzip, put } from './files.ts';
import { fillTree } from './tree.ts';

const root = join(import.meta.dirname, '../..');
const packaging = join(root, 'packaging/deb');

/**
 * Builds the package. It needs `npm`, `tar` and `dpkg-deb`, and no network access.
 * @param destination an existing directory for it
 * @param built whether `dist` is up to date; else it is built first
 * @returns its path
 */
export function buildDeb(destination: string, { built = false } = {}): string {
  // Directories of the package must be accessible to all users.
  process.umask(0o022);
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string };
  // 1.0.0-rc.1 precedes 1.0.0.
  const debVersion = version.replace('-', '~');
  const time = editionTime();
  const template = readFileSync(join(packaging, 'control'), 'utf8');
  const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-deb-'));
  try {
    const tree = join(scratch, 'tree');
    mkdirSync(tree);
    fillTree(tree, unpackTarball(scratch, built));
    put(join(tree, 'usr/share/doc/xlsnap/copyright'), readFileSync(join(packaging, 'copyright')));
    put(
      join(tree, 'usr/share/doc/xlsnap/changelog.gz'),
      changelog(debVersion, /^Maintainer: (.*)$/m.exec(template)?.[1] ?? '', time),
    );
    describe(tree, template.replace('@VERSION@', debVersion));
    const name = `xlsnap_${debVersion}_amd64.deb`;
    // Ubuntu's dpkg-deb would write zstd, which not every dpkg reads.
    execFileSync('dpkg-deb', ['--root-owner-group', '-Zxz', '--build', tree, join(scratch, name)], {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: { ...process.env, SOURCE_DATE_EPOCH: String(time) },
    });
    cpSync(join(scratch, name), join(destination, name));
    return join(destination, name);
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

/** Makes the npm package and unpacks it. @returns the directory with its files */
function unpackTarball(scratch: string, built: boolean): string {
  const options = ['--loglevel=error', `--ignore-scripts=${built}`];
  const said = execFileSync('npm', ['pack', '--pack-destination', scratch, ...options], {
    cwd: root,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const tarball = said.trim().split('\n').at(-1) ?? '';
  execFileSync('tar', ['-C', scratch, '-xzf', join(scratch, tarball)]);
  return join(scratch, 'package');
}

/** Debian's own form of a changelog, which it requires. */
function changelog(version: string, maintainer: string, time: number): Uint8Array {
  const date = new Date(time * 1000).toUTCString().replace('GMT', '+0000');
  return gzip(
    `xlsnap (${version}) unstable; urgency=medium\n\n  * See CHANGELOG.md.\n\n -- ${maintainer}  ${date}\n`,
  );
}

/** Writes what dpkg reads: fields, checksums and scripts. */
function describe(tree: string, control: string): void {
  const files = filesBelow(tree);
  const kib = files.reduce((sum, name) => sum + Math.ceil(statSync(join(tree, name)).size / 1024), 0);
  const sums = files.map((name) => {
    const sum = createHash('md5')
      .update(readFileSync(join(tree, name)))
      .digest('hex');
    return `${sum}  ${name}\n`;
  });
  put(join(tree, 'DEBIAN/control'), control.replace('@INSTALLED_SIZE@', String(kib)));
  put(join(tree, 'DEBIAN/md5sums'), sums.join(''));
  for (const script of ['postinst', 'prerm', 'postrm']) {
    put(join(tree, 'DEBIAN', script), readFileSync(join(packaging, script)), 0o755);
  }
}

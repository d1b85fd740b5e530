/** The built package: under each Node that package.json promises, and as a Debian package. */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { buildDeb } from '../../scripts/deb/build.ts';
import { installNode } from '../support/node-versions.ts';

const MAJORS = [18, 20, 22, 24];
const root = join(import.meta.dirname, '../..');
const SETUP_MS = 600_000;
const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-package-'));
afterAll(() => rmSync(scratch, { recursive: true, force: true }));

beforeAll(() => {
  const { status, stderr } = spawnSync(process.execPath, ['scripts/build.mjs', '--no-check'], {
    cwd: root,
    encoding: 'utf8',
  });
  expect(status, stderr).toBe(0);
}, SETUP_MS);

test.for(MAJORS)(
  'Node %i creates, reverts, verifies, inspects and calls C',
  { timeout: SETUP_MS },
  (major, { skip }) => {
    const found = installNode(major);
    if ('obstacle' in found) {
      console.warn(`skipped: ${found.obstacle}`);
      return skip(found.obstacle);
    }
    const { status, stdout, stderr } = spawnSync(found.program, ['--test', 'test/smoke/smoke.test.mjs'], {
      cwd: root,
      encoding: 'utf8',
      // Node refuses to run tests in a test of its own.
      env: { ...process.env, NODE_TEST_CONTEXT: undefined },
    });
    expect(status, stdout + stderr).toBe(0);
    expect(spawnSync(found.program, ['--version'], { encoding: 'utf8' }).stdout).toMatch(`v${major}.`);
  },
);

/** Why there can be no Debian package here. */
const noDpkg = hasProgram('dpkg-deb') ? '' : ' (skipped: there is no dpkg-deb here)';

function hasProgram(name: string): boolean {
  return spawnSync(name, ['--version']).status === 0;
}

describe.skipIf(noDpkg !== '')(`the Debian package${noDpkg}`, { timeout: SETUP_MS }, () => {
  let deb = '';
  const tree = join(scratch, 'tree');
  beforeAll(() => {
    deb = buildDeb(scratch, { built: true });
    expect(spawnSync('dpkg-deb', ['-x', deb, tree]).status).toBe(0);
  }, SETUP_MS);

  const field = (name: string): string =>
    spawnSync('dpkg-deb', ['-f', deb, name], { encoding: 'utf8' }).stdout.trim();

  test('its command line runs with nothing else of npm, and C functions can be called', () => {
    const xlsnap = (...args: string[]) =>
      spawnSync(process.execPath, [join(tree, 'usr/bin/xlsnap'), ...args], {
        cwd: scratch,
        encoding: 'utf8',
      });
    expect(xlsnap('--version').stdout).toBe(`${field('Version')}\n`);
    const saved = join(scratch, 'hvm.save');
    writeFileSync(saved, gunzipSync(readFileSync(join(root, 'fixtures/savefmt/hvm.xlsave.gz'))));
    expect(xlsnap('verify', saved)).toMatchObject({ status: 0, stderr: '' });
    const { checks } = JSON.parse(xlsnap('doctor', '--json').stdout) as { checks: object[] };
    expect(checks).toContainEqual(expect.objectContaining({ name: 'koffi', status: 'ok' }));
  });

  test('it depends on the C libraries that its binary needs', () => {
    const [binary = '', ...more] = readdirSync(tree, { recursive: true, encoding: 'utf8' }).filter((name) =>
      name.endsWith('.node'),
    );
    expect(more).toEqual([]);
    const text = readFileSync(join(tree, binary), 'latin1');
    const newest = (symbols: RegExp): string =>
      [...text.matchAll(symbols)]
        .map(([, version = '']) => version)
        .sort(byNumbers)
        .at(-1) ?? '';
    expect(field('Depends')).toContain(`libc6 (>= ${newest(/\bGLIBC_(2[.\d]+)/g)})`);
    // The interface of GCC 7 (libstdc++'s manual, "ABI Policy and Guidelines").
    expect([newest(/\bGLIBCXX_(3[.\d]+)/g), newest(/\bCXXABI_(1[.\d]+)/g)]).toEqual(['3.4.14', '1.3.11']);
    expect(field('Depends')).toContain('libstdc++6 (>= 7)');
  });

  test('it requires the Node that package.json requires', () => {
    const { engines } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
      engines: { node: string };
    };
    expect(field('Depends')).toContain(`nodejs (${engines.node.split(' ')[0]?.replace('>=', '>= ')})`);
  });

  test('its copyright names every package in it', () => {
    const copyright = readFileSync(join(tree, 'usr/share/doc/xlsnap/copyright'), 'utf8');
    const packages = readdirSync(join(tree, 'usr/lib/xlsnap/node_modules'));
    expect(packages).toContain('koffi');
    for (const name of packages) expect(copyright).toContain(` usr/lib/xlsnap/node_modules/${name}/*\n`);
  });

  test('a second build is identical', () => {
    const again = mkdtempSync(join(scratch, 'again-'));
    const sum = (path: string): string => createHash('sha256').update(readFileSync(path)).digest('hex');
    expect(sum(buildDeb(again, { built: true }))).toBe(sum(deb));
  });

  const noLintian = hasProgram('lintian') ? '' : ' (skipped: there is no lintian here)';
  test.skipIf(noLintian !== '')(`lintian finds no error${noLintian}`, () => {
    const { status, stdout, stderr } = spawnSync('lintian', ['--allow-root', '--fail-on', 'error', deb], {
      encoding: 'utf8',
    });
    expect(status, stdout + stderr).toBe(0);
  });
});

/** Orders versions such as 2.14 and 2.3.4. */
function byNumbers(a: string, b: string): number {
  return a.localeCompare(b, 'en', { numeric: true });
}

import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { findEmulator } from '../../../lab/emulator.ts';
import { labPaths, type Paths } from '../../../lab/paths.ts';
import { Steps } from '../../../lab/timings.ts';
import { tempDir } from '../../support/temp.ts';

const path = process.env['PATH'];
let directory: Awaited<ReturnType<typeof tempDir>>;
let paths: Paths;
let said: string;

/** Puts a program before all others. */
function program(name: string, script: string): void {
  writeFileSync(join(directory.path, 'bin', name), `#!/bin/sh\n${script}\n`, { mode: 0o755 });
}

const qemu = (version: string): string => `echo 'QEMU emulator version ${version}'`;

async function find() {
  const out = { write: (line: string) => (said += line) } as unknown as NodeJS.WritableStream;
  return await findEmulator(paths, new Steps(paths.timings, out));
}

beforeEach(async () => {
  directory = await tempDir();
  mkdirSync(join(directory.path, 'bin'));
  process.env['PATH'] = `${join(directory.path, 'bin')}${delimiter}${path}`;
  paths = labPaths(join(directory.path, 'lab'));
  said = '';
  // What this machine's apt would say of its sources; then, that it was asked to download.
  program(
    'apt-get',
    `case "$*" in
*indextargets*) printf 'http://debian.example/debian\\tbookworm\\tmain\\t/etc/apt/none.list:1\\n' ;;
*download*) cp "$(dirname "$PWD")/sources.list" '${directory.path}/asked'; touch qemu-system-x86.deb ;;
esac`,
  );
  program(
    'dpkg-deb',
    `mkdir -p "$3/usr/bin"; printf '#!/bin/sh\\necho QEMU emulator version 10.0.2\\n' >"$3/usr/bin/qemu-system-x86_64"
chmod 755 "$3/usr/bin/qemu-system-x86_64"`,
  );
});
afterEach(async () => {
  process.env['PATH'] = path;
  await directory[Symbol.asyncDispose]();
});

test("takes this machine's QEMU where that is new enough", async () => {
  program('qemu-system-x86_64', qemu('8.2.2 (Debian 1:8.2.2+ds-0ubuntu1)'));
  expect(await find()).toMatchObject({ program: 'qemu-system-x86_64', args: [] });
  expect(existsSync(paths.emulator)).toBe(false);
});

test('fetches a newer one once, from the backports of this Debian', async () => {
  program('qemu-system-x86_64', qemu('7.2.22'));
  const found = await find();
  expect(found).toMatchObject({
    program: join(paths.emulator, 'root/usr/bin/qemu-system-x86_64'),
    version: 'QEMU emulator version 10.0.2',
  });
  expect(readFileSync(join(directory.path, 'asked'), 'utf8')).toMatch(
    /^deb http:\/\/debian\.example\/debian \w+-backports main$/m,
  );
  program('apt-get', 'exit 1');
  expect(await find()).toEqual(found);
});

test("says so and takes this machine's where there is none", async () => {
  program('qemu-system-x86_64', qemu('7.2.22'));
  program('dpkg-deb', 'exit 2');
  expect(await find()).toMatchObject({ program: 'qemu-system-x86_64' });
  expect(said).toMatch(/no newer QEMU to be had .*exit code 2.*version 7\.2\.22/);
  // Half of one is not taken for one.
  expect(existsSync(join(paths.emulator, 'root'))).toBe(false);
});

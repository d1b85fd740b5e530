import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { EXIT } from '../../../src/core/errors.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import { tempDir } from '../../support/temp.ts';
import { documentedKeys, xlsnap } from './support.ts';

async function fixture(directory: string, name: string, length?: number): Promise<string> {
  const path = join(directory, `${name}.save`);
  const bytes = gunzipSync(await readFile(`fixtures/savefmt/${name}.xlsave.gz`));
  await writeFile(path, bytes.subarray(0, length ?? bytes.length));
  return path;
}

async function twoSnapshots(directory: string): Promise<readonly [string, string]> {
  const host = new FakeHost({ directory });
  const take = async (name: string): Promise<string> => {
    const memoryPath = join(directory, `${name}.save`);
    const disks = [{ kind: 'internal', target: 'xvda' } as const];
    await createSnapshot(host, { domain: 'guest1', config: { name, memoryPath, disks } });
    return memoryPath;
  };
  const a = await take('before');
  for (let pfn = 240; pfn < 250; pfn++) host.guest.write(pfn, 7);
  host.guest.setType(331, 15);
  return [a, await take('after')];
}

test.each(['pv', 'pvh', 'hvm'])('a file of xl: %s', async (name) => {
  await using directory = await tempDir();
  const path = await fixture(directory.path, name);
  const { code, stdout, stderr, opened } = await xlsnap(['inspect', path]);
  expect({ code, stderr, opened }).toEqual({ code: 0, stderr: '', opened: 0 });
  expect(stdout).toContain(`domain    ${name}84, ${name.toUpperCase()}, 1 vCPU, 84 MiB\n`);
  expect(stdout).toContain('saved by Xen 4.20, stream version 3');
  expect(stdout).toContain(`xvda qcow2 /lab/guests/${name}84/xvda.qcow2\n`);
  expect(stdout).toMatch(/^ {2}libxc PAGE_DATA +\d+ +\d+$/m);
  const widest = Math.max(
    ...stdout
      .replace(path, '')
      .split('\n')
      .map((line) => line.length),
  );
  expect(widest).toBeLessThanOrEqual(80);
});

test('the JSON has the keys of docs/scripting.md, and no others', async () => {
  await using directory = await tempDir();
  const [a, b] = await twoSnapshots(directory.path);
  const one = JSON.parse((await xlsnap(['inspect', a, '--json'])).stdout) as Record<string, unknown>;
  expect(one).toMatchObject({ message_type: 'inspect_result', sound: true, manifest: { name: 'before' } });
  expect(documentedKeys('inspect_result')).toEqual(Object.keys(one).slice(1));
  const picture = join(directory.path, 'c.svg');
  const { stdout } = await xlsnap(['inspect', a, b, '--picture', picture, '--json']);
  const two = JSON.parse(stdout) as Record<string, unknown>;
  expect(two).toMatchObject({
    message_type: 'compare_result',
    total: { same: 289, changed: 10, only_a: 1, only_b: 0 },
    picture,
  });
  // `a` and `b` are named together, and a link explains them.
  expect(documentedKeys('compare_result').filter((key) => key !== 'inspect_result')).toEqual(
    Object.keys(two).slice(1),
  );
  expect(Object.keys(two['a'] as object)).toEqual(documentedKeys('inspect_result'));
});

test('two files: what changed, by region, and a picture of it', async () => {
  await using directory = await tempDir();
  const [a, b] = await twoSnapshots(directory.path);
  const picture = join(directory.path, 'c.svg');
  const { code, stdout, stderr } = await xlsnap(['inspect', a, b, '--picture', picture]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const text = stdout.split('\n');
  expect(text[0]).toBe(`A  ${a}`);
  expect(text[1]).toMatch(/^ {3}"before", \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC, guest1, /);
  expect(text[5]).toBe('Memory: 40 KiB of 1.2 MiB changed (3.3 %); 4 KiB only in A, 0 only in B');
  expect(text.slice(6, 9)).toEqual([
    '  guest address   changed       of              only A  only B',
    '  0 MiB - 1 MiB    40 KiB  896 KiB  #.........       0       0',
    '  1 MiB - 16 MiB        0  300 KiB  ..........   4 KiB       0',
  ]);
  expect(text[9]).toBe(`Picture: ${picture}`);
  const svg = await readFile(picture, 'utf8');
  expect(svg).toMatch(/^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" /);
  expect(svg).toContain('prefers-color-scheme:dark');
  expect(svg).toContain('&quot;before&quot;');
});

test('a damaged file: what could be read, then the error', async () => {
  await using directory = await tempDir();
  const path = await fixture(directory.path, 'hvm', 50_000);
  const text = await xlsnap(['inspect', path]);
  expect(text.code).toBe(EXIT.format);
  expect(text.stdout).toMatch(/ {2}damaged {3}at offset \d+; this is what could be read\n/);
  expect(text.stdout).toContain('hvm84, HVM');
  expect(text.stderr).toMatch(/is not a sound save file:\n {2}.* at offset \d+\)/);
  const json = await xlsnap(['inspect', path, '--json']);
  expect(JSON.parse(json.stdout)).toMatchObject({ message_type: 'inspect_result', sound: false });
  expect(JSON.parse(json.stderr)).toMatchObject({ message_type: 'error', code: 'DAMAGED', exit_code: 9 });
  expect(await xlsnap(['inspect', path, path])).toMatchObject({ code: EXIT.format, stdout: '' });
});

test('a file that is missing, or is not a save file, is an error', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'none');
  expect(await xlsnap(['inspect', path])).toMatchObject({ code: EXIT.format, stdout: '' });
  await writeFile(path, '');
  const empty = await xlsnap(['inspect', path]);
  expect(empty).toMatchObject({ code: EXIT.format });
  expect(empty.stderr).toContain('TRUNCATED');
});

test('--picture overwrites no memory file, and needs two files', async () => {
  await using directory = await tempDir();
  const path = await fixture(directory.path, 'hvm');
  const before = await readFile(path);
  for (const args of [
    ['inspect', path, path, '--picture', path],
    ['inspect', path, '--picture', join(directory.path, 'c.svg')],
  ]) {
    expect(await xlsnap(args)).toMatchObject({ code: EXIT.usage, stdout: '' });
  }
  expect((await readFile(path)).equals(before)).toBe(true);
  const nowhere = ['inspect', path, path, '--picture', join(directory.path, 'none', 'c.svg')];
  expect(await xlsnap(nowhere)).toMatchObject({ code: EXIT.output, stdout: '' });
});

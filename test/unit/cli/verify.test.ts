import { execFileSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { parseConfig } from '../../../src/config/parse.ts';
import { EXIT } from '../../../src/core/errors.ts';
import { createSnapshot } from '../../../src/snapshot/create/create.ts';
import { FakeHost } from '../../../src/testing/fake-host.ts';
import { tempDir } from '../../support/temp.ts';
import { documentedKeys, xlsnap } from './support.ts';

// On real files of xl's, cut down: fixtures/savefmt.

const fixture = async (name: string): Promise<Buffer> =>
  gunzipSync(await readFile(`fixtures/savefmt/${name}.xlsave.gz`));

test.each([
  ['pv', 'PV guest, saved by Xen 4.20, 54 pages'],
  ['pvh', 'HVM or PVH guest, saved by Xen 4.20, 13 pages'],
  ['hvm', 'HVM or PVH guest, saved by Xen 4.20, 13 pages'],
])('a save file of xl is sound: %s', async (name, words) => {
  await using directory = await tempDir();
  const path = join(directory.path, 'guest.save');
  await writeFile(path, await fixture(name));
  const { code, stdout, stderr, opened } = await xlsnap(['verify', path]);
  expect({ code, stderr, opened }).toEqual({ code: 0, stderr: '', opened: 0 });
  expect(stdout).toContain(`${path} is sound: ${words}`);
  expect(stdout).toMatch(/^ {2}libxc PAGE_DATA +\d+ +\d+$/m);
  expect(stdout).toMatch(/^ {2}libxl END +1 +8$/m);
});

test('the JSON has the keys of docs/scripting.md, and no others', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'guest.save');
  const bytes = await fixture('hvm');
  await writeFile(path, bytes);
  const { stdout } = await xlsnap(['verify', path, '--json']);
  const { message_type, ...message } = JSON.parse(stdout) as Record<string, unknown>;
  expect(message_type).toBe('verify_result');
  expect(message).toMatchObject({ path, bytes: bytes.length, guest_type: 'hvm', pages: 13, warnings: [] });
  expect(documentedKeys('verify_result')).toEqual(Object.keys(message));
});

test('a truncated file is refused with the offset, and with all findings for a script', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'guest.save');
  const bytes = await fixture('pvh');
  await writeFile(path, bytes.subarray(0, bytes.length - 5));
  const text = await xlsnap(['verify', path]);
  expect(text).toMatchObject({ code: EXIT.format, stdout: '' });
  expect(text.stderr).toMatch(
    /is not a sound save file:\n {2}.*: expected \d+ bytes, found \d+ \(TRUNCATED, at offset \d+\)$/m,
  );
  expect(text.stderr.match(/offset/g)).toHaveLength(1);
  const json = await xlsnap(['verify', path, '--json']);
  const error = JSON.parse(json.stderr) as { code: string; offset: number; data: { findings: unknown[] } };
  expect(error).toMatchObject({ code: 'DAMAGED', exit_code: EXIT.format });
  expect(error.data.findings.length).toBeGreaterThan(0);
  expect(error.offset).toBeLessThanOrEqual(bytes.length);
});

test('each byte is compared with a manifest beside the file; other JSON there is ignored', async () => {
  await using directory = await tempDir();
  const host = new FakeHost({ directory: directory.path });
  const path = join(directory.path, 's.save');
  const config = parseConfig(`memory_path="${path}"`, 'x');
  await createSnapshot(host, { domain: 'guest1', config });
  const sound = await xlsnap(['verify', path]);
  expect(sound).toMatchObject({ code: 0 });
  expect(sound.stdout).toContain('each byte is as written');

  const bytes = await readFile(path);
  bytes[600_000] = (bytes[600_000] ?? 0) ^ 1;
  await writeFile(path, bytes);
  const damaged = await xlsnap(['verify', path]);
  expect(damaged).toMatchObject({ code: EXIT.format, stdout: '' });
  expect(damaged.stderr).toMatch(
    /bytes \d+ to \d+ are not what was written: PAGE_DATA at offset \d+ \(pfns .*\(CHECKSUM, at offset \d+\)/,
  );

  await writeFile(`${path}.json`, '{"format": "xlsnap-manifest", "ver');
  expect((await xlsnap(['verify', path])).code).toBe(EXIT.format);
  for (const text of ['[{"domid": 7}]', '{"domid": 7}']) {
    await writeFile(`${path}.json`, text);
    const other = await xlsnap(['verify', path]);
    expect(other).toMatchObject({ code: 0 });
    expect(other.stdout).toContain('there are no checksums beside it');
  }
});

test('a FIFO is refused, without waiting for it', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'fifo');
  execFileSync('mkfifo', [path]);
  for (const command of ['verify', 'inspect']) {
    const { code, stderr } = await xlsnap([command, path]);
    expect(code).toBe(EXIT.format);
    expect(stderr).toContain('neither a file nor a block device');
  }
});

test('a file that is missing, or is not a save file, gives exit code 9', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'none');
  const missing = await xlsnap(['verify', path]);
  expect(missing).toMatchObject({ code: EXIT.format, stdout: '' });
  expect(missing.stderr).toContain(`there is no memory file ${path}`);
  await writeFile(path, 'x'.repeat(5000));
  expect(await xlsnap(['verify', path])).toMatchObject({ code: EXIT.format, stdout: '' });
});

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FileSource } from '../../src/core/byte-source.ts';
import { encodeAmendment, verifyStream } from '../../src/savefmt/index.ts';
import { FakeGuest } from '../../src/testing/fake-guest.ts';
import { hvmContext, page, saveFile } from '../support/naive-stream.ts';
import { readContents, relayout } from '../support/relayout.ts';
import { tempDir } from '../support/temp.ts';
import { writeSlots, writeStream } from '../support/whole-file.ts';

/** Xen's own verifier, of any version that is installed. */
const xen = readdirSync('/usr/lib')
  .map((name) => join('/usr/lib', name))
  .find((directory) => existsSync(join(directory, 'bin/verify-stream-v2')));
if (xen === undefined) {
  console.warn(
    'skipped: no verify-stream-v2 below /usr/lib/xen-* (Debian: xen-utils-4.17), so Xen judges no stream',
  );
}

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());

function judge(format: string, path: string): { status: number | null; said: string } {
  const { status, stdout, stderr } = spawnSync(
    'python3',
    [`${xen}/bin/verify-stream-v2`, '-f', format, '-i', path],
    { encoding: 'utf8', env: { ...process.env, PYTHONPATH: `${xen}/lib/python` } },
  );
  return { status, said: stdout + stderr };
}

/** Returns the rest of a file after xl's and libxl's headers and LIBXC_CONTEXT, up to libxc's END. */
async function libxcPart(path: string): Promise<Uint8Array> {
  const bytes = await readFile(path);
  return bytes.subarray(bytes.indexOf(Buffer.from('ffffffffffffffff58454e46', 'hex')));
}

describe.skipIf(xen === undefined)('Xen accepts what is written', () => {
  test.each([
    ['pv', undefined],
    ['pvh', undefined],
    ['hvm', undefined],
    // Several records: the first one full.
    ['many pages', 510],
  ] as const)('%s in fixed slots', async (name, perRecord) => {
    const from = join(directory.path, 'from');
    const to = join(directory.path, 'to');
    if (name === 'many pages') {
      const entries = Array.from({ length: 1200 }, (_, i) => i);
      const pages = new Uint8Array(1200 * 4096).map((_, at) => (at >> 12) & 3);
      const file = saveFile(hvmContext());
      const amendment = encodeAmendment(entries, new Array(1200).fill(0), pages);
      await writeFile(from, insertBeforeState(file, amendment));
    } else await writeFile(from, gunzipSync(await readFile(`fixtures/savefmt/${name}.xlsave.gz`)));
    expect(judge('xl', from)).toEqual({ status: 0, said: '' });

    const layout = await relayout(from, to, perRecord);
    expect(judge('xl', to)).toEqual({ status: 0, said: '' });
    const libxc = join(directory.path, 'libxc');
    await writeFile(libxc, await libxcPart(to));
    expect(judge('libxc', libxc)).toEqual({ status: 0, said: '' });

    await using before = await FileSource.open(from);
    await using after = await FileSource.open(to);
    const [old, now] = [await readContents(before), await readContents(after)];
    expect(now.configJson.trimEnd()).toBe(old.configJson.trimEnd());
    for (const key of ['guestType', 'staticRecords', 'startRecords', 'records', 'libxlRecords'] as const) {
      expect(now[key]).toEqual(old[key]);
    }
    expect([...now.pages.keys()].sort((a, b) => a - b)).toEqual([...old.pages.keys()].sort((a, b) => a - b));
    for (const [pfn, { type, data }] of old.pages) {
      expect(now.pages.get(pfn)?.type).toBe(type);
      expect(Buffer.compare(now.pages.get(pfn)?.data ?? page(0), data)).toBe(0);
    }
    expect(layout.count).toBe(old.pages.size);
    const { size, blocks } = await stat(to);
    if (name === 'many pages') expect(blocks * 512).toBeLessThan(size - 200 * 4096);
    await using again = await FileSource.open(to);
    expect(await verifyStream(again)).toMatchObject({ ok: true, findings: [] });
  });
});

describe.skipIf(xen === undefined)('Xen takes pages that are allocated before their content', () => {
  test.each([
    // More than a full record of allocations has room for.
    ['a file', writeSlots, 256 * 512 + 300],
    ['a stream', writeStream, 10 * 512 + 300],
  ])('%s', async (_, write, pages) => {
    const types = new Uint8Array(2 ** 18).fill(15, 160, 192).fill(15, pages);
    const path = join(directory.path, 'saved');
    await write(new FakeGuest(types, (pfn) => pfn % 1024 !== 7), path);
    expect(judge('xl', path)).toEqual({ status: 0, said: '' });
    const libxc = join(directory.path, 'libxc');
    await writeFile(libxc, await libxcPart(path));
    expect(judge('libxc', libxc)).toEqual({ status: 0, said: '' });
  });
});

/** Puts a record where libxc's PAGE_DATA records of the naive file end. */
function insertBeforeState(file: Uint8Array, record: Uint8Array): Uint8Array {
  const tsc = Buffer.from(file).indexOf(Buffer.from('0800000018000000', 'hex'));
  return Buffer.concat([file.subarray(0, tsc), record, file.subarray(tsc)]);
}

/**
 * Makes fixtures for the format tests from whole `xl save` files. They keep every record, but only a few pages of the
 * memory (some of each page type, and the counter's own page), in a stream that Xen's verifier accepts.
 *
 *   node scripts/run.mjs lab/make-fixtures.ts FOLDER    # with pv.xlsave, pvh.xlsave, hvm.xlsave, xen.txt
 */
import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { decodePage } from './counter.ts';
import { LabError } from './errors.ts';

const pageSize = 4096;
const pageData = 1;
/** Entries in one record of the fixture: small, so that there are several. */
const batch = 16;
/** Entries kept of each page type, with and without data. */
const perType = 6;
const typeNames: Readonly<Record<number, string>> = { 13: 'broken', 14: 'xalloc', 15: 'xtab' };

interface Cut {
  readonly bytes: Uint8Array;
  readonly entries: number;
  readonly pages: number;
  readonly kept: number;
  readonly keptPages: number;
  readonly records: readonly string[];
}

interface Entry {
  readonly word: bigint;
  readonly data: Uint8Array | undefined;
}

function cut(file: Buffer): Cut {
  const optional = file.readUInt32LE(44);
  let at = 48 + optional + 16; // xl's header and its optional data, libxl's stream header
  if (file.readUInt32LE(at) !== 1 || file.readUInt32LE(at + 4) !== 0) {
    throw new LabError('usage', 'the libxl stream does not begin with LIBXC_CONTEXT');
  }
  at += 8 + 24 + 16; // that record's head, libxc's image and domain headers
  const parts: Uint8Array[] = [file.subarray(0, at)];
  const seen = new Map<string, number>();
  const records: string[] = [];
  let entries = 0;
  let pages = 0;
  let kept: Entry[] = [];
  let keptAll = 0;
  let keptPages = 0;
  const flush = (): void => {
    if (kept.length > 0) parts.push(...pageDataRecord(kept));
    keptAll += kept.length;
    keptPages += kept.filter((entry) => entry.data !== undefined).length;
    kept = [];
  };
  for (;;) {
    const type = file.readUInt32LE(at);
    const length = file.readUInt32LE(at + 4);
    const end = at + 8 + Math.ceil(length / 8) * 8;
    if (type !== pageData) {
      flush();
      parts.push(file.subarray(at, end));
      records.push(`0x${type.toString(16)}:${length}`);
      at = end;
      if (type === 0) break;
      continue;
    }
    const count = file.readUInt32LE(at + 8);
    let data = at + 16 + 8 * count;
    for (let i = 0; i < count; i++) {
      const word = file.readBigUInt64LE(at + 16 + 8 * i);
      const kind = Number(word >> 60n);
      const bytes = kind in typeNames ? undefined : file.subarray(data, data + pageSize);
      if (bytes !== undefined) data += pageSize;
      entries++;
      if (bytes !== undefined) pages++;
      const zero = bytes?.every((byte) => byte === 0) ?? false;
      const key = `${kind}${zero ? ' zero' : ''}`;
      const number = seen.get(key) ?? 0;
      const counter = bytes !== undefined && decodePage(bytes) !== undefined;
      if (number < perType || counter) {
        seen.set(key, number + 1);
        kept.push({ word, data: bytes });
        if (kept.length === batch) flush();
      }
    }
    at = end;
  }
  parts.push(file.subarray(at)); // the rest of libxl's stream
  return { bytes: Buffer.concat(parts), entries, pages, kept: keptAll, keptPages, records };
}

function pageDataRecord(entries: readonly Entry[]): Uint8Array[] {
  const data = entries.flatMap((entry) => (entry.data === undefined ? [] : [entry.data]));
  const head = Buffer.alloc(16 + 8 * entries.length);
  head.writeUInt32LE(pageData, 0);
  head.writeUInt32LE(head.length - 8 + data.length * pageSize, 4);
  head.writeUInt32LE(entries.length, 8);
  entries.forEach((entry, i) => {
    head.writeBigUInt64LE(entry.word, 16 + 8 * i);
  });
  return [head, ...data];
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  process.stderr.write('usage: node scripts/run.mjs lab/make-fixtures.ts FOLDER\n');
  process.exit(2);
}
const out = join(import.meta.dirname, '../fixtures/savefmt');
mkdirSync(out, { recursive: true });
const xen = readFileSync(join(folder, 'xen.txt'), 'utf8').trim();
const sections: string[] = [];
for (const type of ['pv', 'pvh', 'hvm']) {
  const whole = readFileSync(join(folder, `${type}.xlsave`));
  const fixture = cut(whole);
  const packed = gzipSync(fixture.bytes, { level: 9 });
  const name = `${type}.xlsave.gz`;
  writeFileSync(join(out, name), packed);
  sections.push(`## ${name}

- Whole file: ${whole.length} bytes, sha256 ${sha256(whole)}; ${fixture.entries} PAGE_DATA entries, ${fixture.pages} with data.
- Fixture, unpacked: ${fixture.bytes.length} bytes, sha256 ${sha256(fixture.bytes)}; ${fixture.kept} entries, ${fixture.keptPages} with data.
- Packed: ${packed.length} bytes.
- libxc records besides PAGE_DATA (type:length): ${fixture.records.join(' ')}
`);
}
writeFileSync(
  join(out, 'README.md'),
  `# Real save files, cut down

Each is what \`xl save\` of a real Xen wrote for a guest of the lab, without most of its memory.
\`lab/make-fixtures.ts\` keeps every record, and of the PAGE_DATA entries up to ${perType} of each page type (pages of zeros count as a type of their own) and the counter's own page (\`lab/guest/counter.c\`), ${batch} to a record.
\`verify-stream-v2 -f xl\` accepts them; they cannot be restored.
They are packed with gzip only to save space: the tests unpack them.

    npm run lab -- up
    npm run lab -- guest TYPE --mem 84 --name TYPE84    # TYPE: pv, pvh, hvm
    npm run lab -- run xl save TYPE84 /lab/TYPE.xlsave
    npm run lab -- get /lab/TYPE.xlsave FOLDER/TYPE.xlsave
    npm run -s lab -- run xl info > FOLDER/xen.txt
    node scripts/run.mjs lab/make-fixtures.ts FOLDER

${sections.join('\n')}
## Xen

${['release', 'xen_version', 'xen_caps', 'xen_changeset', 'virt_caps']
  .map((key) => new RegExp(`^${key}\\s*:.*$`, 'm').exec(xen)?.[0])
  .filter((line) => line !== undefined)
  .map((line) => `    ${line}`)
  .join('\n')}
`,
);

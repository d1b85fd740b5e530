import { open } from 'node:fs/promises';
import { PAGE_SIZE } from '../../src/core/brand.ts';
import { type ByteSource, FileSource } from '../../src/core/byte-source.ts';
import {
  encodePrefix,
  encodeSuffix,
  hasPageData,
  type LibxcStateRecord,
  type LibxlRecord,
  readStream,
  SlotLayout,
  type StreamGuestType,
  xlConfigText,
} from '../../src/savefmt/index.ts';

/** The content of a save file; of repeated pages the last. */
export interface Contents {
  configJson: string;
  guestType: StreamGuestType;
  xenMajor: number;
  xenMinor: number;
  readonly staticRecords: LibxcStateRecord[];
  readonly startRecords: LibxcStateRecord[];
  readonly records: LibxcStateRecord[];
  readonly libxlRecords: LibxlRecord[];
  readonly pages: Map<number, { readonly type: number; readonly data: Uint8Array }>;
}

/** Reads a whole file of xl. */
export async function readContents(source: ByteSource): Promise<Contents> {
  const contents: Contents = {
    configJson: '',
    guestType: 'hvm',
    xenMajor: 0,
    xenMinor: 0,
    staticRecords: [],
    startRecords: [],
    records: [],
    libxlRecords: [],
    pages: new Map(),
  };
  let to = contents.staticRecords;
  for await (const item of readStream(source)) {
    if (item.kind === 'xl-header') contents.configJson = xlConfigText(item.header);
    else if (item.kind === 'libxc-headers') {
      const { guestType, xenMajor, xenMinor } = item.domain;
      Object.assign(contents, { guestType, xenMajor, xenMinor });
    } else if (item.kind === 'libxl-record') {
      if (item.record.name !== 'END' && item.record.name !== 'LIBXC_CONTEXT') {
        contents.libxlRecords.push(item.record);
      }
    } else if (item.kind === 'libxc-record') {
      const { record } = item;
      if (record.name === 'STATIC_DATA_END') to = contents.startRecords;
      else if (record.name === 'PAGE_DATA') {
        to = contents.records;
        let index = 0;
        const next = (): number => {
          while (index < record.words.count && !hasPageData(record.words.type(index))) {
            contents.pages.delete(record.words.pfn(index++));
          }
          return index;
        };
        for await (const chunk of record.pages) {
          for (let at = 0; at < chunk.length; at += PAGE_SIZE) {
            const i = next();
            const type = record.words.type(i);
            contents.pages.set(record.words.pfn(i), { type, data: chunk.slice(at, at + PAGE_SIZE) });
            index++;
          }
        }
        next();
      } else if (record.name !== 'END') to.push(record);
    }
  }
  return contents;
}

/** Rewrites a save file into fixed slots: each page once, aligned, pages of zeros left as holes. */
export async function relayout(from: string, to: string, perRecord?: number): Promise<SlotLayout> {
  await using source = await FileSource.open(from);
  const { pages, records, libxlRecords, ...prefixOptions } = await readContents(source);
  const pfns = Uint32Array.from(pages.keys()).sort();
  const types = Uint8Array.from(pfns, (pfn) => pages.get(pfn)?.type ?? -1);
  const prefix = encodePrefix(prefixOptions);
  const layout = SlotLayout.create({
    firstRecordOffset: prefix.length,
    count: pfns.length,
    ...(perRecord === undefined ? {} : { perRecord }),
  });
  const file = await open(to, 'w', 0o600);
  try {
    await file.write(prefix, 0, prefix.length, 0);
    for (let r = 0; r < layout.recordCount; r++) {
      const { offset, firstIndex, count } = layout.record(r);
      const end = firstIndex + count;
      const head = layout.encodeHead(r, pfns.subarray(firstIndex, end), types.subarray(firstIndex, end));
      await file.write(head, 0, head.length, offset);
    }
    for (let i = 0; i < pfns.length; i++) {
      const data = pages.get(pfns[i] ?? -1)?.data;
      if (data?.some((byte) => byte !== 0)) await file.write(data, 0, PAGE_SIZE, layout.slotOffset(i));
    }
    const suffix = encodeSuffix({ records, libxlRecords });
    await file.write(suffix, 0, suffix.length, layout.end);
  } finally {
    await file.close();
  }
  return layout;
}

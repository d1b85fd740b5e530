import { join } from 'node:path';
import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { Bitmap } from '../../src/core/bitmap.ts';
import { checksumFile, STRETCH } from '../../src/memfile/checksums.ts';
import { FileSaver } from '../../src/snapshot/memory/file-saver.ts';
import { OutputFile } from '../../src/snapshot/output/file.ts';
import { FakeGuest } from '../../src/testing/fake-guest.ts';
import { tempDir } from '../support/temp.ts';

/** Three full records, one of zeros among them, and a part of a fourth. */
const PFNS = 3500;
const HEAD = 8192;
const pfns = fc.integer({ min: 0, max: PFNS - 1 });
/** What a running guest does between two rounds. */
const rounds = fc.array(
  fc.array(fc.record({ pfn: pfns, word: fc.constantFrom(0, 7), type: fc.constantFrom(0, 15) }), {
    maxLength: 4,
  }),
  { maxLength: 3 },
);

test.prop([rounds], { numRuns: 25 })(
  'the sums of what was written while copying are those of the file',
  async (done) => {
    await using directory = await tempDir();
    const guest = new FakeGuest(new Uint8Array(PFNS), (pfn) => pfn % 7 === 0 || (pfn > 1022 && pfn < 2044));
    const file = await OutputFile.create(join(directory.path, 'm'));
    await file.writeAt(new Uint8Array(HEAD).fill(1), 0);
    const saver = new FileSaver(guest, file, HEAD, { expectedPages: PFNS, spareMemory: () => 2 ** 20 });
    const dirty = new Bitmap(guest.p2mSize);
    await guest.startDirtyLog();
    await saver.copyAll(dirty);
    for (const [round, writes] of done.entries()) {
      for (const { pfn, word, type } of writes) {
        guest.setType(pfn, type);
        if (type === 0) guest.write(pfn, word);
      }
      await guest.takeDirty(dirty);
      await (round < done.length - 1 ? saver.copyDirty(dirty, round + 1) : saver.copyLast(dirty, round + 1));
    }
    const { start } = await saver.finish();
    await saver.writeKept();
    const { fileBytes: size } = await file.sizes();
    const shape = { head: start, stretch: STRETCH };
    let known = 0;
    const sums = await checksumFile(file.fd, size, shape, {
      known: (stretch) => {
        const sum = file.sumOf(stretch);
        if (sum !== undefined) known++;
        return sum;
      },
    });
    expect(sums).toEqual(await checksumFile(file.fd, size, shape));
    if (done.flat().length === 0) expect(known).toBeGreaterThanOrEqual(3);
    await file.discard();
  },
);

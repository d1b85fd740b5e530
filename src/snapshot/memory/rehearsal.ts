/** Copies pages of a running guest to nowhere, so that copying is fast from the first page on once the guest stands still. */
import { open } from 'node:fs/promises';
import { Bitmap } from '../../core/bitmap.ts';
import { silentReporter } from '../../core/reporter.ts';
import { hasPageData } from '../../savefmt/index.ts';
import type { Tuning } from '../api.ts';
import type { PositionalOutput } from '../output/file.ts';
import type { Guest } from '../ports.ts';
import { forEachPage, type PageTypes } from './each-page.ts';
import { CopyProgress } from './progress.ts';
import { SegmentWriter } from './segment.ts';

/** Among so many pfns. More cost more time before the suspend than they spare during it. */
const PFNS = 8 * 1024;
/** Not longer than this: where it is reached, a slow host runs it, and gains little. */
const LIMIT_MS = 200;

/**
 * Does with a running guest's first pages what `FileSaver.copyAll` does with all of a stopped one's, but writes them to `/dev/null`.
 * The first records otherwise take three times as long as the others: V8 interprets what it has not compiled, and threads and buffers
 * do not exist yet.
 * @param guest an HVM or PVH guest; a running PV guest may be changing its page tables
 * @throws {InterruptedError} If the signal is aborted; also what methods of `Guest` throw
 */
export async function rehearse(
  guest: Guest,
  {
    tuning = {},
    signal,
  }: { readonly tuning?: Tuning | undefined; readonly signal?: AbortSignal | undefined },
): Promise<void> {
  const file = await open('/dev/null', 'w');
  const writes: Promise<unknown>[] = [];
  const output: PositionalOutput = {
    fd: file.fd,
    writeAt: async () => {},
    mayWrite: async () => {},
    noteWrite: (_, written) => void writes.push(written),
    written: async () => {
      await Promise.allSettled(writes);
    },
    beginSync: () => {},
  };
  try {
    const end = Math.min(PFNS, guest.p2mSize);
    const deadline = performance.now() + LIMIT_MS;
    const progress = new CopyProgress(silentReporter, { total: end, round: undefined, live: true });
    const writer = new SegmentWriter(guest, output, 0, progress, {
      deferred: new Bitmap(guest.p2mSize),
      signal,
      tuning,
      mayWait: 0,
    });
    const visit = (pfn: number, type: number): Promise<void> | undefined => {
      if (!hasPageData(type) || performance.now() > deadline) return undefined;
      return writer.add(pfn, type) ? writer.flush() : undefined;
    };
    const first: PageTypes = {
      p2mSize: end,
      pageTypesFrom: (...range) => guest.pageTypesFrom(...range),
    };
    await writer.run(() => forEachPage(first, signal, visit));
  } finally {
    await output.written();
    await file.close();
  }
}

/** Goes through the types of all pages of a guest. */
import { throwIfAborted } from '../../core/errors.ts';
import { PAGE_TYPE } from '../../savefmt/index.ts';
import type { Guest } from '../ports.ts';

/** pfns whose types are asked for in one go; the signal is looked at in between. */
export const TYPE_CHUNK = 16 * 1024;
/** Types of that many pfns where nothing is. */
export const NOTHING = Buffer.alloc(TYPE_CHUNK, PAGE_TYPE.xtab);

/** Tells whether nothing is at any of these pfns: at most `TYPE_CHUNK`. */
export function isNothing(types: Uint8Array): boolean {
  return NOTHING.compare(types, 0, types.length, 0, types.length) === 0;
}

/** Where the types of pages come from: the guest, or a `PageSurvey` of it. */
export type PageTypes = Pick<Guest, 'p2mSize' | 'pageTypesFrom'>;

/**
 * Visits all pfns of a guest, ascending, where something is: all but those of type XTAB. The next types are asked for
 * in the meantime.
 * @param visit gives a promise when the next page has to wait for it
 * @throws {InterruptedError} If the signal is aborted; also what `Guest.pageTypesFrom` and `visit` throw
 */
export async function forEachPage(
  guest: PageTypes,
  signal: AbortSignal | undefined,
  visit: (pfn: number, type: number) => Promise<void> | undefined,
): Promise<void> {
  const { p2mSize } = guest;
  const typesFrom = (from: number): Promise<Uint8Array> =>
    guest.pageTypesFrom(from, Math.max(0, Math.min(TYPE_CHUNK, p2mSize - from)));
  let next = typesFrom(0);
  // The signal may keep it from being awaited.
  next.catch(() => {});
  for (let from = 0; from < p2mSize; from += TYPE_CHUNK) {
    throwIfAborted(signal);
    const types = await next;
    next = typesFrom(from + TYPE_CHUNK);
    // It is awaited in the next turn, unless there is none.
    next.catch(() => {});
    if (isNothing(types)) continue;
    for (let i = 0; i < types.length; i++) {
      const type = types[i] ?? PAGE_TYPE.xtab;
      if (type === PAGE_TYPE.xtab) continue;
      const busy = visit(from + i, type);
      if (busy !== undefined) await busy;
    }
  }
  await next;
}

import { expect, test } from 'vitest';
import { InterruptedError } from '../../../../src/core/errors.ts';
import { forEachPage, TYPE_CHUNK } from '../../../../src/snapshot/memory/each-page.ts';
import { PageSurvey } from '../../../../src/snapshot/memory/page-survey.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';

const NOTAB = 0;
const BROKEN = 13;
const XTAB = 15;

/** A guest with memory in the first of eight chunks, and a few pages in the seventh; its p2m ends within the eighth. */
class SmallGuest extends FakeGuest {
  /** First pfns of the chunks that were asked for. */
  readonly asked: number[] = [];
  /** Pages without a pfn. */
  others = 3;

  constructor() {
    super(
      new Uint8Array(7 * TYPE_CHUNK + 100)
        .fill(XTAB, 1000)
        .fill(NOTAB, 6 * TYPE_CHUNK + 5, 6 * TYPE_CHUNK + 9)
        .fill(BROKEN, 6 * TYPE_CHUNK + 20, 6 * TYPE_CHUNK + 21),
    );
  }

  override async pageTypesFrom(first: number, count: number): Promise<Uint8Array> {
    this.asked.push(first / TYPE_CHUNK);
    return await super.pageTypesFrom(first, count);
  }

  override async pageCount(): Promise<number> {
    return (await super.pageCount()) + this.others;
  }
}

async function surveyOf(guest: FakeGuest): Promise<PageSurvey> {
  const survey = await PageSurvey.of(guest, undefined);
  if (survey === undefined) throw new Error('it was not surveyed');
  return survey;
}

async function pagesOf(types: Parameters<typeof forEachPage>[0]): Promise<string[]> {
  const pages: string[] = [];
  await forEachPage(types, undefined, (pfn, type) => {
    pages.push(`${pfn}:${type}`);
    return undefined;
  });
  return pages;
}

test('asks a suspended guest only for what was not empty, and then for nothing more', async () => {
  const guest = new SmallGuest();
  const survey = await surveyOf(guest);
  guest.asked.length = 0;
  await survey.settle(undefined);
  expect(guest.asked).toEqual([0, 6, 7]);
  guest.asked.length = 0;
  const pages = await pagesOf(survey);
  expect(guest.asked).toEqual([]);
  expect(pages).toEqual(await pagesOf(guest));
  guest.asked.length = 0;
  await survey.check(undefined);
  expect(guest.asked).toEqual([1, 2, 3, 4, 5]);
});

test.each([
  ['has got a page', (guest: SmallGuest) => guest.setType(3 * TYPE_CHUNK, NOTAB)],
  [
    'has moved a page',
    (guest: SmallGuest) => {
      guest.setType(10, XTAB);
      guest.setType(3 * TYPE_CHUNK, NOTAB);
    },
  ],
  ['has got a page that has no pfn', (guest: SmallGuest) => guest.others++],
] as const)('asks for all if the guest %s in the meantime', async (_, happens) => {
  const guest = new SmallGuest();
  const survey = await surveyOf(guest);
  happens(guest);
  guest.asked.length = 0;
  await survey.settle(undefined);
  expect(guest.asked.toSorted()).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(await pagesOf(survey)).toEqual(await pagesOf(guest));
  // Nothing is left that it did not look at.
  guest.asked.length = 0;
  await survey.check(undefined);
  expect(guest.asked).toEqual([]);
});

test.each([
  ['gives pages away', (guest: SmallGuest) => guest.setType(10, XTAB)],
  [
    'moves a page to where others are',
    (guest: SmallGuest) => {
      guest.setType(10, XTAB);
      guest.setType(6 * TYPE_CHUNK + 50, NOTAB);
    },
  ],
] as const)('sees that the guest %s', async (_, happens) => {
  const guest = new SmallGuest();
  const survey = await surveyOf(guest);
  happens(guest);
  guest.asked.length = 0;
  await survey.settle(undefined);
  expect(guest.asked).toEqual([0, 6, 7]);
  expect(await pagesOf(survey)).toEqual(await pagesOf(guest));
});

test('finds afterwards what the count cannot show: a page that moved while it was looked for', async () => {
  const guest = new SmallGuest();
  const { pageTypesFrom } = guest;
  // Behind the place that was just looked at, from a place that comes next.
  guest.pageTypesFrom = async (first, count) => {
    if (first === 6 * TYPE_CHUNK) {
      guest.setType(6 * TYPE_CHUNK + 5, XTAB);
      guest.setType(3 * TYPE_CHUNK + 7, NOTAB);
    }
    return await pageTypesFrom.call(guest, first, count);
  };
  const survey = await surveyOf(guest);
  await survey.settle(undefined);
  await expect(survey.check(undefined)).rejects.toMatchObject({
    code: 'P2M_RESIZED',
    message: `page ${3 * TYPE_CHUNK + 7} has come to the guest since the snapshot began`,
  });
});

test('looks at what a p2m has grown by', async () => {
  const guest = new SmallGuest();
  const survey = await surveyOf(guest);
  guest.grow(new Uint8Array(2 * TYPE_CHUNK).fill(XTAB).fill(NOTAB, TYPE_CHUNK));
  await guest.settle({ mayGrow: true });
  await survey.settle(undefined);
  expect(await pagesOf(survey)).toEqual(await pagesOf(guest));
});

test('leaves a guest alone whose p2m is not mostly empty', async () => {
  const guest = new FakeGuest(new Uint8Array(4 * TYPE_CHUNK).fill(XTAB, 3 * TYPE_CHUNK));
  expect(await PageSurvey.of(guest, undefined)).toBeUndefined();
});

test('ends when it is interrupted', async () => {
  const guest = new SmallGuest();
  const survey = await surveyOf(guest);
  const aborted = AbortSignal.abort();
  await expect(PageSurvey.of(guest, aborted)).rejects.toThrow(InterruptedError);
  await expect(survey.settle(aborted)).rejects.toThrow(InterruptedError);
  await expect(survey.check(aborted)).rejects.toThrow(InterruptedError);
});

import { utimesSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { chainBelow, userOf } from '../../../../src/snapshot/images/chain.ts';
import { freeImages } from '../../../../src/snapshot/images/free.ts';
import { FakeHost, type FakeImage, writeImage } from '../../../../src/testing/fake-host.ts';
import { tempDir } from '../../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let host: FakeHost;
beforeEach(async () => {
  directory = await tempDir();
  host = new FakeHost({ directory: directory.path });
});
afterEach(() => directory[Symbol.asyncDispose]());

const at = (name: string): string => join(directory.path, name);
const image = (name: string, options: Partial<FakeImage> = {}): string => {
  writeImage(at(name), { format: 'qcow2', content: '', tags: {}, ...options });
  return at(name);
};
const chain = async (name: string, format = 'qcow2'): Promise<readonly string[]> => {
  const below: string[] = [];
  for await (const path of chainBelow(host.images, { path: at(name), format })) below.push(path);
  return below;
};
const asks = (): number => host.calls.filter((call) => call === 'info').length;

describe('a chain of images', () => {
  it('is followed by the formats that are stated', async () => {
    const base = image('base', { format: 'vpc' });
    const middle = image('middle', { backing: base });
    image('top', { backing: middle });
    expect(await chain('top')).toEqual([middle, base]);
  });

  it('ends at a raw image, whatever its guest has written to it', async () => {
    const victim = image('victim');
    const pretends = { format: 'qcow2', content: '', tags: { s1: '' }, backing: victim };
    const disk = image('disk', { format: 'raw', pretends });
    image('top', { backing: disk });
    expect(await chain('top')).toEqual([disk]);
    expect(await chain('disk', 'raw')).toEqual([]);
    // So nobody can prevent another domain's image from being recovered.
    host.addDomain({ name: 'hostile', images: { xvda: disk } });
    expect(await userOf(host, victim)).toBeUndefined();
    expect(host.harm).toEqual([]);
  });

  it('does not guess a format that is not stated, but knows the file', async () => {
    const lowest = image('lowest');
    const base = image('base', { backing: lowest });
    const middle = image('middle', { backing: base, backingFormat: '' });
    const failure = { code: 'IMAGE_FORMAT', message: expect.stringContaining(base) };
    await expect(chain('middle')).rejects.toMatchObject(failure);
    host.othersUse.push(middle);
    expect(await userOf(host, base)).toMatchObject({ path: middle });
    // The fake's images lack qcow2's magic number, so the chain of the image in use ends there for this
    // check.
    expect(await userOf(host, lowest)).toBeUndefined();
  });

  it('ends at what is missing or is not a file here, and is refused if something is neither a file nor a block device', async () => {
    image('on-nothing', { backing: at('none') });
    expect(await chain('on-nothing')).toEqual([at('none')]);
    image('on-nbd', { backing: 'nbd://server/export' });
    expect(await chain('on-nbd')).toEqual([]);
    await mkdir(at('directory'));
    image('on-directory', { backing: at('directory'), backingFormat: 'qcow2' });
    await expect(chain('on-directory')).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
  });

  it('of 300 images is followed to its end', async () => {
    const images = [image('0')];
    for (let n = 1; n < 300; n++) images.push(image(`${n}`, { backing: images.at(-1) ?? '' }));
    expect(await chain('299')).toEqual(images.slice(0, -1).reverse());
  });

  it('may be a loop', async () => {
    const one = image('one');
    const two = image('two', { backing: one });
    image('one', { backing: two });
    expect(await chain('one')).toEqual([two]);
  });

  it('is asked for once, as long as its files do not change', async () => {
    const base = image('base', { content: 'base' });
    const images = [base];
    for (let n = 0; n < 5; n++) images.push(image(`over${n}`, { backing: images.at(-1) ?? '' }));
    host.othersUse.push(images.at(-1) ?? '');
    const old = new Date(Date.now() - 60_000);
    for (const path of [...images, at('xvda.img')]) utimesSync(path, old, old);
    const alone = image('alone', { tags: { s1: '' } });
    const free = freeImages(host);
    await free.applyTag(alone, 's1');
    const first = asks();
    expect(first).toBeGreaterThanOrEqual(images.length);
    await free.applyTag(alone, 's1');
    await free.deleteTag(alone, 's1');
    expect(asks()).toBe(first);
    // It is on another base by now.
    image('over0', { backing: alone });
    await expect(free.createTag(alone, 's2')).rejects.toMatchObject({ code: 'IMAGE_IN_USE' });
  });

  it('is asked for again if a file has only just been written to', async () => {
    image('base');
    host.othersUse.push(image('top', { backing: at('base') }));
    await userOf(host, at('alone'));
    const first = asks();
    await userOf(host, at('alone'));
    expect(asks()).toBeGreaterThan(first);
  });
});

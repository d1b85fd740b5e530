/** Clones of memory files, and what they share, on real file systems: XFS and btrfs in a file that is mounted, ext4 and tmpfs. */
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { FicloneMemoryClones } from '../../src/toolstack/storage/memory-clones.ts';
import { sharedSizes } from '../../src/toolstack/storage/shared-size.ts';
import { mount, unmountAll } from '../support/mounts.ts';

const MIB = 2 ** 20;
const PAGE = 4096;

const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-memory-clones-'));
afterAll(() => {
  unmountAll();
  rmSync(scratch, { recursive: true });
});

const clones = new FicloneMemoryClones();

/** FIEMAP shows what is on the disk. */
async function sync(path: string): Promise<void> {
  await using file = await open(path);
  await file.sync();
}

/** Overwrites single pages, and nothing else. */
function writePages(path: string, pages: readonly number[], byte: number): void {
  const file = openSync(path, 'r+');
  for (const page of pages) writeSync(file, Buffer.alloc(PAGE, byte), 0, PAGE, page * PAGE);
  closeSync(file);
}

describe.each(['xfs', 'btrfs'])('a memory file on %s', (type) => {
  const directory = join(scratch, type);
  const parent = join(directory, 'parent.save');
  const child = join(directory, 'child.save');
  const pages = Array.from({ length: 100 }, (_, at) => at * 37);
  let missing: string | undefined;
  let content: Buffer;
  beforeAll(async () => {
    missing = mount(type, directory);
    if (missing !== undefined) return console.log(`  skipped: ${type} cannot be mounted here: ${missing}`);
    content = Buffer.alloc(16 * MIB, 'memory of the guest');
    writeFileSync(parent, content);
    await sync(parent);
  });

  it('can be cloned there, and nothing is left of the attempt', async (context) => {
    if (missing !== undefined) return context.skip();
    expect(await clones.obstacle(directory)).toBeUndefined();
    expect(readdirSync(directory)).toEqual(['parent.save']);
    expect(await sharedSizes()(parent)).toBe(0);
  });

  it('is cloned to an open file that keeps its identity, and neither changes with the other', async (context) => {
    if (missing !== undefined) return context.skip();
    writeFileSync(child, '', { mode: 0o600 });
    const { ino } = statSync(child);
    {
      await using from = await open(parent);
      await using to = await open(child, 'r+');
      await clones.clone(`/proc/self/fd/${from.fd}`, `/proc/self/fd/${to.fd}`);
    }
    expect(statSync(child)).toMatchObject({ ino, size: content.length });
    expect(statSync(child).mode & 0o777).toBe(0o600);
    await sync(child);
    expect(await sharedSizes()(child)).toBe(content.length);
    writePages(child, pages, 7);
    await sync(child);
    const changed = Buffer.from(content);
    for (const page of pages) changed.fill(7, page * PAGE, (page + 1) * PAGE);
    expect(readFileSync(child).equals(changed)).toBe(true);
    expect(readFileSync(parent).equals(content)).toBe(true);
    const own = 16 * MIB - ((await sharedSizes()(child)) ?? 0);
    expect(own).toBeGreaterThanOrEqual(pages.length * PAGE);
    expect(own).toBeLessThan(8 * MIB);
    rmSync(parent);
    expect(readFileSync(child).equals(changed)).toBe(true);
    await sync(child);
    await sync(directory);
    expect(await sharedSizes()(child)).toBeLessThan(16 * MIB);
  });

  it('is not cloned when it is in so many extents that copying all memory is quicker', async (context) => {
    if (missing !== undefined) return context.skip();
    const scattered = join(directory, 'scattered.save');
    const copy = join(directory, 'copy.save');
    writeFileSync(scattered, content);
    await sync(scattered);
    writeFileSync(copy, '');
    await clones.clone(scattered, copy);
    await sync(copy);
    const every = (step: number): number[] => Array.from({ length: 4096 / step }, (_, at) => at * step);
    writePages(copy, every(64), 1);
    await sync(copy);
    const target = join(directory, 'target.save');
    writeFileSync(target, '');
    await clones.clone(copy, target);
    writePages(copy, every(4), 1);
    await sync(copy);
    writeFileSync(target, '');
    await expect(clones.clone(copy, target)).rejects.toMatchObject({
      code: 'CLONE',
      message: expect.stringContaining('pieces'),
    });
    expect(statSync(target).size).toBe(0);
  });

  it('gets no answer once the time for a list is over', async (context) => {
    if (missing !== undefined) return context.skip();
    expect(await sharedSizes(0)(child)).toBeUndefined();
  });

  it('cannot be cloned to another file system', async (context) => {
    if (missing !== undefined) return context.skip();
    const elsewhere = join(scratch, `${type}.elsewhere`);
    writeFileSync(elsewhere, '');
    await using to = await open(elsewhere, 'r+');
    // As a create does: by a name, libuv would remove the file.
    await expect(clones.clone(child, `/proc/self/fd/${to.fd}`)).rejects.toMatchObject({ code: 'CLONE' });
    expect(statSync(elsewhere).size).toBe(0);
  });
});

it('a file system without reflinks is reported, and says nothing of what is shared', async (context) => {
  const directory = join(scratch, 'ext4');
  const missing = mount('ext4', directory);
  if (missing !== undefined) {
    console.log(`  skipped: ext4 cannot be mounted here: ${missing}`);
    return context.skip();
  }
  expect(await clones.obstacle(directory)).toBe(`the file system of ${directory} has no reflinks`);
  expect(readdirSync(directory)).toEqual(['lost+found']);
  const path = join(directory, 'm.save');
  writeFileSync(path, 'data');
  expect(await sharedSizes()(path)).toBeUndefined();
  expect(await sharedSizes()(join(directory, 'none'))).toBeUndefined();
});

import { constants, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import fs, { open } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { OutputError } from '../../../../src/core/errors.ts';
import { exists, makeDirectory } from '../../../../src/core/files.ts';
import { partialOf } from '../../../../src/memfile/names.ts';
import { OutputFile, writeWhole } from '../../../../src/snapshot/output/file.ts';
import { tempDir } from '../../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let path: string;
beforeEach(async () => {
  directory = await tempDir();
  path = join(directory.path, 'file');
});
afterEach(() => {
  vi.restoreAllMocks();
  syncBuiltinESMExports();
  return directory[Symbol.asyncDispose]();
});

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const names = (): string[] => readdirSync(directory.path);

describe('OutputFile', () => {
  it('is opened for O_DIRECT if its file system can do that, and closes both', async () => {
    const open = (): number => readdirSync('/proc/self/fd').length;
    const before = open();
    const file = await OutputFile.create(path);
    expect(file.directFd).toBeUndefined();
    await file.openDirect();
    if (file.directFd !== undefined) {
      const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync(`/proc/self/fdinfo/${file.directFd}`, 'utf8'));
      expect(Number.parseInt(flags?.[1] ?? '0', 8) & constants.O_DIRECT).toBe(constants.O_DIRECT);
    }
    await file.commit();
    expect(open()).toBe(before);
    const other = await OutputFile.create(`${path}2`);
    await other.openDirect();
    await other.discard();
    expect(open()).toBe(before);
  });

  it('stays open until what is being written has ended, though it is discarded', async () => {
    const open = (): number => readdirSync('/proc/self/fd').length;
    const before = open();
    const file = await OutputFile.create(path);
    let end = (_sum: undefined): void => {};
    const written = new Promise<undefined>((resolve) => {
      end = resolve;
    });
    file.noteWrite({ from: 0, to: 4096 }, written);
    await file.discard();
    await expect(file.mayWrite()).rejects.toThrow();
    expect(names()).toEqual([]);
    // Another file would get the number, and the bytes.
    expect(open()).toBe(before + 1);
    end(undefined);
    await vi.waitFor(() => expect(open()).toBe(before));
  });

  it('forgets the sum of a stretch that was written to before it was known', async () => {
    const file = await OutputFile.create(path);
    let end = (_sum: string): void => {};
    const written = new Promise<string>((resolve) => {
      end = resolve;
    });
    file.noteWrite({ from: 0, to: 4096 }, written);
    await file.writeAt(bytes('new'), 0);
    end('00');
    await file.written();
    expect(file.sumOf({ from: 0, to: 4096 })).toBeUndefined();
    await file.discard();
  });

  it('has its name only once it is complete, and is for its owner alone', async () => {
    const before = process.umask(0);
    try {
      const file = await OutputFile.create(path);
      expect(names()).toEqual(['file.partial']);
      expect(statSync(partialOf(path)).mode & 0o777).toBe(0o600);
      await file.writeAt(bytes('behind'), 6);
      await file.writeAt(bytes('before'), 0);
      expect(names()).toEqual(['file.partial']);
      expect(await file.sizes()).toMatchObject({ fileBytes: 12 });
      await file.commit();
    } finally {
      process.umask(before);
    }
    expect(names()).toEqual(['file']);
    expect(readFileSync(path, 'utf8')).toBe('beforebehind');
    expect(statSync(path).mode & 0o777).toBe(0o600);
  });

  it('leaves holes, and reports how much space it takes', async () => {
    const file = await OutputFile.create(path);
    await file.writeAt(bytes('far'), 1 << 24);
    const { fileBytes, allocatedBytes } = await file.sizes();
    expect(fileBytes).toBe((1 << 24) + 3);
    expect(allocatedBytes).toBeLessThan(1 << 20);
    await file.discard();
  });

  describe('and flushing', () => {
    /** Spies on `datasync` of all files. */
    async function datasync() {
      await using probe = await open(join(directory.path, 'probe'), 'w');
      const prototype: { datasync(): Promise<void> } = Object.getPrototypeOf(probe);
      return vi.spyOn(prototype, 'datasync');
    }
    it('begins early, one flush at a time, and is waited for at the end', async () => {
      const sync = await datasync();
      const file = await OutputFile.create(path);
      file.beginSync();
      file.beginSync();
      expect(sync).toHaveBeenCalledTimes(1);
      await file.commit();
      expect(sync).toHaveBeenCalledTimes(2);
    });

    it('is not waited for if nobody wants that', async () => {
      const sync = await datasync();
      await (await OutputFile.create(path)).commit({ sync: false });
      expect(sync).not.toHaveBeenCalled();
      expect(names()).toContain('file');
    });

    it('is reported at the end if it failed early', async () => {
      (await datasync()).mockRejectedValueOnce(new Error('EIO'));
      const file = await OutputFile.create(path);
      file.beginSync();
      await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_COMMIT', cause: { message: 'EIO' } });
      expect(names()).not.toContain('file');
      await file.discard();
    });
  });

  it('never opens an existing partial file', async () => {
    writeFileSync(partialOf(path), 'of another');
    await expect(OutputFile.create(path)).rejects.toMatchObject({
      code: 'OUTPUT_CREATE',
      hint: expect.stringContaining('another xlsnap'),
    });
    expect(readFileSync(partialOf(path), 'utf8')).toBe('of another');
  });

  it('never replaces nor removes a file that another program created since', async () => {
    const file = await OutputFile.create(path);
    writeFileSync(path, 'precious');
    await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
    await file.discard();
    expect(names()).toEqual(['file']);
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });

  describe('and a file that another program creates at the last moment', () => {
    it('is neither replaced nor removed', async () => {
      const file = await OutputFile.create(path);
      for (const name of ['link', 'rename'] as const) {
        const real = fs[name];
        vi.spyOn(fs, name).mockImplementation(async (from, to) => {
          writeFileSync(path, 'precious');
          await real(from, to);
        });
      }
      syncBuiltinESMExports();
      await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
      await file.discard();
      expect(names()).toEqual(['file']);
      expect(readFileSync(path, 'utf8')).toBe('precious');
    });
  });

  describe('where there are no hard links', () => {
    beforeEach(() => {
      vi.spyOn(fs, 'link').mockRejectedValue(Object.assign(new Error('EPERM'), { code: 'EPERM' }));
      syncBuiltinESMExports();
    });

    it('gets its name all the same', async () => {
      const file = await OutputFile.create(path);
      await file.writeAt(bytes('x'), 0);
      await file.commit();
      expect(names()).toEqual(['file']);
    });

    it('replaces no file that was created since', async () => {
      const file = await OutputFile.create(path);
      writeFileSync(path, 'precious');
      await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_EXISTS' });
      await file.discard();
      expect(readFileSync(path, 'utf8')).toBe('precious');
    });
  });

  it('has its name if the file system reports a link that it has made as one that existed', async () => {
    const file = await OutputFile.create(path);
    const { link } = fs;
    vi.spyOn(fs, 'link').mockImplementation(async (from, to) => {
      await link(from, to);
      throw Object.assign(new Error('EEXIST'), { code: 'EEXIST' });
    });
    syncBuiltinESMExports();
    await file.commit();
    expect(names()).toEqual(['file']);
  });

  it('is removed under both names if it could not lose the first one', async () => {
    const file = await OutputFile.create(path);
    vi.spyOn(fs, 'unlink').mockRejectedValue(Object.assign(new Error('EIO'), { code: 'EIO' }));
    syncBuiltinESMExports();
    await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_COMMIT' });
    expect(names()).toEqual(['file', 'file.partial']);
    await file.discard();
    expect(names()).toEqual([]);
  });

  it('no longer exists when discarded, before or after it has its name, even twice', async () => {
    const early = await OutputFile.create(path);
    await early.writeAt(bytes('x'), 0);
    await early.discard();
    await early.discard();
    expect(names()).toEqual([]);
    const late = await OutputFile.create(path);
    await late.commit();
    await late.discard();
    expect(names()).toEqual([]);
  });

  it('reports what cannot be created or written', async () => {
    await expect(OutputFile.create(join(directory.path, 'no', 'file'))).rejects.toThrow(OutputError);
    const file = await OutputFile.create(path);
    await file.discard();
    await expect(file.writeAt(bytes('x'), 10)).rejects.toMatchObject({ code: 'OUTPUT_WRITE', offset: 10 });
    await expect(file.commit()).rejects.toMatchObject({ code: 'OUTPUT_COMMIT' });
  });
});

describe('writeWhole', () => {
  it('writes a file', async () => {
    await writeWhole(path, 'für alle');
    expect(readFileSync(path, 'utf8')).toBe('für alle');
  });

  it('leaves nothing of its own if it fails', async () => {
    writeFileSync(path, 'precious');
    await expect(writeWhole(path, 'x')).rejects.toThrow(OutputError);
    expect(names()).toEqual(['file']);
    expect(readFileSync(path, 'utf8')).toBe('precious');
  });
});

describe('makeDirectory', () => {
  it('creates parents too, for the owner alone, and names the highest that it created', async () => {
    const deep = join(directory.path, 'a', 'b');
    expect(await makeDirectory(deep)).toBe(join(directory.path, 'a'));
    expect(statSync(deep).mode & 0o777).toBe(0o700);
    expect(await makeDirectory(deep)).toBeUndefined();
  });

  it('reports a file that is in the way', async () => {
    writeFileSync(path, '');
    await expect(makeDirectory(join(path, 'x'))).rejects.toMatchObject({ code: 'OUTPUT_DIRECTORY' });
  });
});

it('a path that cannot be examined counts as existing', async () => {
  expect(await exists(path)).toBe(false);
  writeFileSync(path, '');
  expect(await exists(path)).toBe(true);
  expect(await exists(join(path, 'below a file'))).toBe(false);
  expect(await exists(join(directory.path, 'x'.repeat(300)))).toBe(true);
});

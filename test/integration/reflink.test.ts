/** Clones of raw images on real file systems: XFS and btrfs in a file that is mounted, and the one below the temporary directory. */
import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { StorageDisk } from '../../src/memfile/manifest.ts';
import type { RevertSteps } from '../../src/snapshot/storage/port.ts';
import { ReflinkStorage } from '../../src/snapshot/storage/reflink.ts';
import { FicloneClones } from '../../src/toolstack/storage/clones.ts';
import { mount, unmountAll } from '../support/mounts.ts';

const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-reflink-'));
afterAll(() => {
  unmountAll();
  rmSync(scratch, { recursive: true });
});

const storage = new ReflinkStorage(new FicloneClones());
const steps: RevertSteps = { mark: '20261127-000000-abcdef', checkFree: () => Promise.resolve() };

const mark = 'abcdef012345';

/** @returns what was noted */
async function prepare(disk: StorageDisk): Promise<string | undefined> {
  let made: string | undefined;
  await storage.prepare(disk, {
    mark,
    note: async (text) => {
      made = text;
    },
  });
  return made;
}

/** Node has no extended attributes. */
function python(statement: string, path: string): string {
  return execFileSync('python3', ['-c', `import os, sys; ${statement}`, path], { encoding: 'utf8' });
}

async function fails(): Promise<never> {
  throw new Error('must not be asked');
}

describe.each(['xfs', 'btrfs'])('a raw image on %s', (type) => {
  const directory = join(scratch, type);
  const image = join(directory, 'disk.raw');
  const place = { kind: 'file', path: image } as const;
  let missing: string | undefined;
  beforeAll(() => {
    missing = mount(type, directory);
    if (missing === undefined) writeFileSync(image, 'at the snapshot'.repeat(100_000));
    else console.log(`  skipped: ${type} cannot be mounted here: ${missing}`);
  });

  it('is cloned without a copy, put back any number of times, and the clone stays', async (context) => {
    if (missing !== undefined) return context.skip();
    execFileSync('chmod', ['640', image]);
    execFileSync('chown', ['1234:5678', image]);
    python("os.setxattr(sys.argv[1], 'user.note', b'kept')", image);
    const then = readFileSync(image);
    expect(await storage.examine('xvda', place)).toEqual([]);
    const { disk, problems } = await storage.plan(place, { vdev: 'xvda', name: 's1', path: undefined });
    expect(problems).toEqual([]);
    const made = await prepare(disk);
    await storage.flush(disk);
    await storage.take(disk, made);
    const known = await storage.finish(disk, made);
    expect(known.virtualSize).toBe(then.length);
    // Not synced: what the guest's writes have left in the page cache.
    for (const time of ['first', 'second']) {
      appendFileSync(image, `written before the ${time} revert`);
      expect(await storage.check(disk, known)).toEqual({ problems: [], risks: [] });
      let noted: string | undefined;
      await storage.revert(disk, steps, async (id) => {
        noted = id;
      });
      expect(noted).toBe(String(statSync(image).ino));
      expect(readFileSync(image).equals(then)).toBe(true);
      const { mode, uid, gid } = statSync(image);
      expect({ mode: mode & 0o777, uid, gid }).toEqual({ mode: 0o640, uid: 1234, gid: 5678 });
      const note = python("print(os.getxattr(sys.argv[1], 'user.note').decode(), end='')", image);
      expect(note).toBe('kept');
      expect(readFileSync((await storage.former(disk, steps.mark)) ?? '').length).toBeGreaterThan(
        then.length,
      );
      expect(await storage.forget(disk, steps.mark)).toBe(true);
    }
    expect(await storage.find(disk, known.identity)).toBe('there');
    expect(await storage.undo(disk, { mark, made })).toBe(true);
    expect(readdirSync(directory).filter((name) => name.startsWith('disk.'))).toEqual(['disk.raw']);
  });

  it('is as before once a revert is undone, wherever that was', async (context) => {
    if (missing !== undefined) return context.skip();
    const { disk } = await storage.plan(place, { vdev: 'xvda', name: 's2', path: undefined });
    const made = await prepare(disk);
    await storage.take(disk, made);
    await storage.finish(disk, made);
    appendFileSync(image, 'later');
    const now = readFileSync(image);
    for (const last of [0, 1, 2]) {
      let checks = 0;
      const stopping = {
        ...steps,
        checkFree: async () => {
          if (checks++ === last) throw new Error('stopped');
        },
      };
      let noted: string | undefined;
      const done = storage.revert(disk, stopping, async (id) => {
        noted = id;
      });
      if (last < 2) await expect(done).rejects.toThrow('stopped');
      else await done;
      let asked = 0;
      const undone = await storage.undoRevert(disk, steps, noted, async () => void asked++);
      expect({ undone, asked }).toEqual({ undone: true, asked: last === 0 ? 0 : 1 });
      expect(readFileSync(image).equals(now)).toBe(true);
      expect(await storage.undoRevert(disk, steps, noted, fails)).toBe(false);
    }
    await storage.remove(disk, undefined);
    expect(readdirSync(directory).filter((name) => name.startsWith('disk.'))).toEqual(['disk.raw']);
  });

  it('is never cloned over another file that has taken the place of the clone, and that stays', async (context) => {
    if (missing !== undefined) return context.skip();
    const { disk } = await storage.plan(place, { vdev: 'xvda', name: 's4', path: undefined });
    for (const content of ['', 'of another program']) {
      // Both exist at once, so that they have different inodes.
      const made = await prepare(disk);
      writeFileSync(`${disk.snapshot}.theirs`, content);
      renameSync(`${disk.snapshot}.theirs`, disk.snapshot);
      await expect(storage.take(disk, made)).rejects.toMatchObject({ code: 'CLONE' });
      expect(await storage.undo(disk, { mark, made })).toBe(false);
      expect(readFileSync(disk.snapshot, 'utf8')).toBe(content);
      rmSync(disk.snapshot);
    }
  });

  it('is not cloned if another file has taken the place of the image', async (context) => {
    if (missing !== undefined) return context.skip();
    const { disk } = await storage.plan(place, { vdev: 'xvda', name: 's5', path: undefined });
    const made = await prepare(disk);
    renameSync(image, `${image}.moved`);
    writeFileSync(image, 'another image');
    await expect(storage.take(disk, made)).rejects.toMatchObject({ code: 'CLONE' });
    renameSync(`${image}.moved`, image);
    expect(await storage.undo(disk, { mark, made })).toBe(true);
  });

  it('cannot be cloned to another file system, and leaves nothing of the attempt there', async (context) => {
    if (missing !== undefined) return context.skip();
    const path = join(scratch, 'elsewhere.raw');
    const { problems } = await storage.plan(place, { vdev: 'xvda', name: 's3', path });
    expect(problems).toMatchObject([{ code: 'NO_REFLINK' }]);
    expect(readdirSync(scratch).filter((name) => name.includes('elsewhere'))).toEqual([]);
  });
});

it('a raw image on ext4 is refused, with what would help, and nothing is left of the attempt', async (context) => {
  const directory = join(scratch, 'ext4');
  const missing = mount('ext4', directory);
  if (missing !== undefined) {
    console.log(`  skipped: ext4 cannot be mounted here: ${missing}`);
    return context.skip();
  }
  const path = join(directory, 'disk.raw');
  writeFileSync(path, 'data');
  const problems = await storage.examine('xvda', { kind: 'file', path });
  expect(problems).toMatchObject([{ code: 'NO_REFLINK' }]);
  expect(problems?.[0]?.message).toContain(`the file system of ${directory} has no reflinks`);
  expect(problems?.[0]?.hint).toContain('XFS or btrfs');
  expect(readdirSync(directory).sort()).toEqual(['disk.raw', 'lost+found']);
});

it('a raw image on a file system without reflinks is refused, and nothing is left of the attempt', async (context) => {
  const directory = mkdtempSync('/dev/shm/xlsnap-no-reflink-');
  try {
    if (execFileSync('stat', ['-f', '-c', '%T', directory], { encoding: 'utf8' }).trim() !== 'tmpfs') {
      console.log('  skipped: /dev/shm is not tmpfs');
      return context.skip();
    }
    const path = join(directory, 'disk.raw');
    writeFileSync(path, 'data');
    const problems = await storage.examine('xvda', { kind: 'file', path });
    expect(problems).toMatchObject([{ code: 'NO_REFLINK' }]);
    expect(problems?.[0]?.message).toContain('has no reflinks');
    expect(readdirSync(directory)).toEqual(['disk.raw']);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

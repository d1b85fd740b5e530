import { readFile, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { DiskError, EnvironmentError, InterruptedError, OutputError } from '../../src/core/errors.ts';
import { whileItProgresses } from '../../src/core/signs-of-life.ts';
import { chainBelow, standsOn } from '../../src/snapshot/images/chain.ts';
import { overlaysOn } from '../../src/snapshot/images/overlays-on.ts';
import { QemuImages } from '../../src/toolstack/qemu/images.ts';
import { fakeProgram } from '../support/fake-program.ts';
import { makeImage, output, startQemu, xenDisk } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
const images = new QemuImages();
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());

const at = (name: string): string => join(directory.path, name);
const write = (path: string, pattern: number): Promise<string> =>
  output('qemu-io', '-f', 'qcow2', '-c', `write -P ${pattern} 0 64k`, path);
const holds = (path: string, pattern: number): Promise<boolean> =>
  output('qemu-io', '-r', '-f', 'qcow2', '-c', `read -P ${pattern} 0 64k`, path).then(
    (text) => !text.includes('verification failed'),
    () => false,
  );

const chain = async (path: string): Promise<readonly string[]> => {
  const below: string[] = [];
  for await (const image of chainBelow(images, { path, format: 'qcow2' })) below.push(image);
  return below;
};

/** A tag that qemu-img has just created: without a machine's state or clock. */
const aTag = {
  dateSec: expect.closeTo(Date.now() / 1000, -3),
  dateNsec: expect.any(Number),
  vmClockNsec: '0',
  vmStateSize: 0,
};

describe('info', () => {
  it('returns format, size, snapshots and base', async () => {
    const base = await makeImage(at('base.raw'), 'raw');
    const image = await makeImage(at('image.qcow2'), 'qcow2', '-b', base, '-F', 'raw');
    await images.createTag(image, 'before the upgrade');
    await images.createTag(image, "it's, odd: -x");
    expect(await images.info(image, 'qcow2')).toEqual({
      path: image,
      format: 'qcow2',
      virtualSize: 4 << 20,
      tags: ['before the upgrade', "it's, odd: -x"],
      backing: base,
      backingFormat: 'raw',
      snapshots: [
        { ...aTag, id: '1', name: 'before the upgrade' },
        { ...aTag, id: '2', name: "it's, odd: -x" },
      ],
      encrypted: false,
      externalData: false,
    });
    expect(await images.info(base, 'raw')).toMatchObject({ format: 'raw', tags: [], backing: undefined });
    expect(await images.info(at('none'), 'qcow2')).toBeUndefined();
    expect(await images.info(image, 'raw')).toMatchObject({ format: 'raw', tags: [], backing: undefined });
  });

  it('works on an image in use', async () => {
    const image = await makeImage(at('image.qcow2'));
    const locked = xenDisk('xvda', image).map((argument) => argument.replace('"off"', '"on"'));
    await using _ = await startQemu(directory.path, locked);
    expect(await images.info(image, 'qcow2')).toMatchObject({ format: 'qcow2' });
    await expect(images.createTag(image, 's')).rejects.toThrow(/lock/);
  });

  it('recognises encryption and external data files', async () => {
    const data = await makeImage(at('data.qcow2'), 'qcow2', '-o', `data_file=${at('data.raw')}`);
    expect(await images.info(data, 'qcow2')).toMatchObject({ externalData: true });
    const secret = at('locked.qcow2');
    // Not LUKS: for it, qemu-img measures the processor's speed, and gives up on a busy machine ("Unable to
    // get accurate CPU usage"). For this test it makes no difference.
    const key = ['--object', 'secret,id=k,data=x', '-o', 'encrypt.format=aes,encrypt.key-secret=k'];
    await output('qemu-img', 'create', '-q', '-f', 'qcow2', ...key, secret, '1M');
    expect(await images.info(secret, 'qcow2')).toMatchObject({ encrypted: true });
  });

  it('fails with the words of qemu-img', async () => {
    const image = await makeImage(at('image.raw'), 'raw');
    await expect(images.info(image, 'no-format')).rejects.toMatchObject({
      name: 'DiskError',
      code: 'QEMU_IMG',
      message: expect.stringContaining(image),
      data: { operation: 'info', status: 1 },
    });
  });

  it('ignores what a guest has written to its raw disk', async () => {
    const secret = await makeImage(at('secret.qcow2'));
    const disk = await makeImage(at('disk.raw'), 'qcow2', '-b', secret, '-F', 'qcow2');
    expect(await images.info(disk, 'raw')).toMatchObject({ format: 'raw', tags: [], backing: undefined });
    const above = await makeImage(at('above.qcow2'), 'qcow2', '-b', disk, '-F', 'raw');
    expect(await chain(above)).toEqual([disk]);
  });

  it.each(['vpc', 'qcow2', 'vmdk', 'vdi', 'qed'])('refuses what is not of format %s', async (format) => {
    const image = await makeImage(at('image.raw'), 'raw');
    await expect(images.info(image, format)).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
  });

  it('refuses what is neither a file nor a block device, without opening it', async () => {
    await output('mkfifo', at('fifo'));
    for (const path of [at('fifo'), '/dev/null', directory.path]) {
      await expect(images.info(path, 'raw')).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
    }
    const image = at('above.qcow2');
    await output(
      'qemu-img',
      'create',
      '-q',
      '-u',
      '-f',
      'qcow2',
      '-b',
      at('fifo'),
      '-F',
      'qcow2',
      image,
      '1M',
    );
    await expect(chain(image)).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
    await expect(images.createTag(image, 's')).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
  });

  it('does not open an image whose format the one above does not state', async () => {
    const base = await makeImage(at('base.qcow2'));
    const overlay = await makeImage(at('overlay.qcow2'), 'qcow2', '-b', base, '-F', 'qcow2');
    // As older versions of qemu-img created them.
    const bytes = await readFile(overlay);
    // The header extension that names the format becomes one that QEMU does not know.
    bytes.writeUInt32BE(0x6661_6b65, bytes.indexOf(Buffer.from('e2792aca', 'hex')));
    await writeFile(overlay, bytes);
    expect(await images.info(overlay, 'qcow2')).toMatchObject({ backing: base, backingFormat: undefined });
    const top = await makeImage(at('top.qcow2'), 'qcow2', '-b', overlay, '-F', 'qcow2');
    await expect(chain(top)).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
    // Nevertheless, whoever has it open has all of these open, and no other image.
    const lowest = await makeImage(at('lowest.qcow2'));
    await output('qemu-img', 'rebase', '-u', '-f', 'qcow2', '-b', lowest, '-F', 'qcow2', base);
    const used = { path: top, format: 'qcow2' };
    for (const below of [overlay, base, lowest]) expect(await standsOn(images, used, below)).toBe(true);
    expect(await standsOn(images, used, await makeImage(at('else.qcow2')))).toBe(false);
    for (const change of [
      () => images.createTag(top, 's'),
      () => images.commitOverlay(top),
      () => images.createOverlay(at('new.qcow2'), { path: top, format: 'qcow2' }),
      () => images.check(top),
    ]) {
      await expect(change()).rejects.toMatchObject({
        code: 'IMAGE_FORMAT',
        message: expect.stringContaining(base),
      });
    }
  });
});

describe('merging an overlay', () => {
  it('reports how far it has come', async () => {
    const base = await makeImage(at('base.raw'), 'raw');
    const overlay = await makeImage(at('overlay.qcow2'), 'qcow2', '-b', base, '-F', 'raw');
    await write(overlay, 5);
    // A qemu-img that prints what the real one does, and takes its time.
    const real = (await output('sh', '-c', 'command -v qemu-img')).trim();
    const restore = fakeProgram(
      directory.path,
      'qemu-img',
      `[ "$1" = commit ] || exec ${real} "$@"\nprintf '    (0.00/100%%)\\r    (50.00/100%%)\\r'\nsleep 2\nexec ${real} "$@"`,
    );
    const seen: (readonly [number, number])[] = [];
    try {
      await images.commitOverlay(overlay, { onProgress: (...progress) => seen.push(progress) });
    } finally {
      restore();
    }
    const [first] = seen;
    expect(first?.[0]).toBe((first?.[1] ?? 0) / 2);
    expect(first?.[1]).toBeGreaterThanOrEqual(64 * 1024);
    expect((await readFile(base)).subarray(0, 65536).every((byte) => byte === 5)).toBe(true);
  });

  it('what else is on an image is found by the headers beside it', async () => {
    const base = await makeImage(at('base.qcow2'));
    const one = await makeImage(at('one.qcow2'), 'qcow2', '-b', base, '-F', 'qcow2');
    const two = await makeImage(at('two.qcow2'), 'qcow2', '-b', 'one.qcow2', '-F', 'qcow2');
    await symlink(one, at('link.qcow2'));
    await writeFile(at('text'), 'QFI');
    expect(await overlaysOn([base, one], [directory.path, directory.path, at('none')])).toEqual([
      { path: one, base },
      { path: two, base: one },
    ]);
    expect(await overlaysOn([two], [directory.path])).toEqual([]);
  });
});

describe('tags', () => {
  it('keep a content, which can be restored', async () => {
    const image = await makeImage(at('a, b:c "d".qcow2'));
    await write(image, 1);
    await images.createTag(image, 'one');
    await write(image, 2);
    await images.createTag(image, 'two');
    await images.applyTag(image, 'one');
    expect(await holds(image, 1)).toBe(true);
    expect(await holds(image, 2)).toBe(false);
    await images.applyTag(image, 'two');
    expect(await holds(image, 2)).toBe(true);
    await images.deleteTag(image, 'one');
    expect((await images.info(image, 'qcow2'))?.tags).toEqual(['two']);
    expect(await images.check(image)).toEqual({ corruptions: 0, leaks: 0 });
  });

  it('are refused if they would exist twice, or mean another', async () => {
    const image = await makeImage(at('image.qcow2'));
    await images.createTag(image, 'one');
    await expect(images.createTag(image, 'one')).rejects.toMatchObject({ code: 'TAG_EXISTS' });
    // Its id is 1.
    await expect(images.createTag(image, '1')).rejects.toMatchObject({ code: 'TAG_EXISTS' });
    await expect(images.applyTag(image, '1')).rejects.toMatchObject({
      code: 'NO_TAG',
      hint: 'it has "one"',
    });
    await expect(images.deleteTag(image, 'none')).rejects.toMatchObject({ code: 'NO_TAG' });
    await output('qemu-img', 'snapshot', '-c', 'one', image);
    await expect(images.applyTag(image, 'one')).rejects.toMatchObject({ code: 'TAG_AMBIGUOUS' });
    await output('qemu-img', 'snapshot', '-c', '1', image);
    await expect(images.deleteTag(image, '1')).rejects.toMatchObject({ code: 'TAG_AMBIGUOUS' });
    expect((await images.info(image, 'qcow2'))?.tags).toEqual(['one', 'one', '1']);
  });

  it('are not written to what only looks like qcow2, nor to raw images', async () => {
    const raw = await makeImage(at('image.raw'), 'raw');
    await expect(images.createTag(raw, 's')).rejects.toBeInstanceOf(DiskError);
    await expect(images.createTag(at('none'), 's')).rejects.toMatchObject({ code: 'NO_IMAGE' });
  });
});

describe('overlays', () => {
  it('read as their base until they are written to', async () => {
    const base = await makeImage(at('base, 1:2.qcow2'));
    await write(base, 5);
    const overlay = at('-o, ver:lay.qcow2');
    await images.createOverlay(overlay, { path: base, format: 'qcow2' });
    expect(await images.info(overlay, 'qcow2')).toMatchObject({
      format: 'qcow2',
      backing: base,
      virtualSize: 4 << 20,
    });
    expect(await holds(overlay, 5)).toBe(true);
    await write(overlay, 6);
    expect(await holds(base, 5)).toBe(true);
  });

  it('never replace a file, and leave none if they fail', async () => {
    const base = await makeImage(at('base.qcow2'));
    await writeFile(at('there'), 'mine');
    await symlink(at('elsewhere'), at('link'));
    for (const name of ['there', 'link']) {
      const failure = images.createOverlay(at(name), { path: base, format: 'qcow2' });
      await expect(failure).rejects.toBeInstanceOf(OutputError);
    }
    expect(await readFile(at('there'), 'utf8')).toBe('mine');
    const failure = images.createOverlay(at('new'), { path: at('none'), format: 'qcow2' });
    await expect(failure).rejects.toThrow(/none/);
    await expect(readFile(at('new'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});

describe('qemu-img', () => {
  it('finds damage', async () => {
    const image = await makeImage(at('image.qcow2'));
    await write(image, 1);
    const bytes = await readFile(image);
    // The L1 table's offset is at 40; an entry points beyond the end.
    const l1 = Number(bytes.readBigUInt64BE(40));
    bytes.writeBigUInt64BE(0x8000_0000_0fff_0000n, l1);
    await writeFile(image, bytes);
    expect((await images.check(image)).corruptions).toBeGreaterThan(0);
    await writeFile(image, 'no image');
    await expect(images.check(image)).rejects.toMatchObject({ code: 'IMAGE_FORMAT' });
  });

  it('is named with its package if it is missing', async () => {
    const image = await makeImage(at('image.qcow2'));
    const { PATH } = process.env;
    process.env['PATH'] = directory.path;
    try {
      const failure = images.info(image, 'qcow2');
      await expect(failure).rejects.toBeInstanceOf(EnvironmentError);
      await expect(failure).rejects.toMatchObject({ hint: expect.stringContaining('qemu-utils') });
    } finally {
      process.env['PATH'] = PATH;
    }
  });

  /** Replaces qemu-img: describes an image at once, and takes a second for everything else. */
  const slow = (): (() => void) =>
    fakeProgram(
      directory.path,
      'qemu-img',
      `[ "$1" = info ] && { echo '{"format": "qcow2", "virtual-size": 1}'; exit 0; }
      exec bash -c 'exec -a qemu-img sh -c "sleep 1; echo done >> ${at('done')}" "$@"' x "$@"`,
    );
  const timesDone = (): Promise<number> =>
    readFile(at('done'), 'utf8').then(
      (text) => text.trim().split('\n').length,
      () => 0,
    );

  /** Aborts as soon as a qemu-img that writes has begun. */
  const onceItWorks = (): AbortSignal => {
    const controller = new AbortController();
    const look = async (): Promise<void> => {
      while ((await images.worker(at('image'))) === undefined) await sleep(10);
      controller.abort();
    };
    void look();
    return controller.signal;
  };

  it('is never killed while it writes: an interruption waits for it, or says that it is still running', async () => {
    await writeFile(at('image'), '');
    const takeAway = slow();
    try {
      const patient = new QemuImages({ signal: onceItWorks() });
      await patient.commitOverlay(at('image'));
      expect(await timesDone()).toBe(1);
      const impatient = new QemuImages({ signal: onceItWorks(), abortMs: 100 });
      const error = await impatient.commitOverlay(at('image')).catch((problem: unknown) => problem);
      expect(error).toBeInstanceOf(InterruptedError);
      expect(error).toMatchObject({
        message: expect.stringMatching(/qemu-img commit \(pid \d+\) is still working on/),
      });
      expect(await timesDone()).toBe(1);
      // The next one waits for it.
      await images.commitOverlay(at('image'));
      expect(await timesDone()).toBe(3);
    } finally {
      takeAway();
    }
  });

  it('asks once what it is about to change', async () => {
    const image = await makeImage(at('image.qcow2'));
    const real = (await output('which', 'qemu-img')).trim();
    const takeAway = fakeProgram(
      directory.path,
      'qemu-img',
      `echo "$1" >> ${at('calls')}\nexec ${real} "$@"`,
    );
    try {
      await images.createTag(image, 's');
      await images.applyTag(image, 's');
      await images.deleteTag(image, 's');
    } finally {
      takeAway();
    }
    const calls = (await readFile(at('calls'), 'utf8')).trim().split('\n');
    expect(calls).toEqual(['info', 'snapshot', 'info', 'snapshot', 'info', 'snapshot']);
  });

  it('is waited for as long as it works, however short the time for an undo', async () => {
    await writeFile(at('image'), '');
    const takeAway = fakeProgram(
      directory.path,
      'qemu-img',
      `[ "$1" = info ] && { echo '{"format": "qcow2", "virtual-size": 1}'; exit 0; }
      [ "$1" = commit ] || exec sleep 12
      for i in 1 2 3 4 5 6 7 8 9 10; do cat /etc/passwd > /dev/null; sleep 0.9; done; echo done > ${at('done')}`,
    );
    const bounded = (work: () => Promise<void>): Promise<void> =>
      whileItProgresses(work, 8000, () => new Error('given up'));
    try {
      await bounded(() => images.commitOverlay(at('image')));
      expect(await timesDone()).toBe(1);
      const hanging = bounded(() => images.createOverlay(at('new'), { path: at('image'), format: 'raw' }));
      await expect(hanging).rejects.toThrow('given up');
    } finally {
      takeAway();
    }
  });

  it('is ended by the signal if it only reads', async () => {
    const image = await makeImage(at('image.qcow2'));
    const stopped = new QemuImages({ signal: AbortSignal.abort() });
    await expect(stopped.info(image, 'qcow2')).rejects.toBeInstanceOf(InterruptedError);
  });
});

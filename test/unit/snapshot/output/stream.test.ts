import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  constants,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { isStream, StreamOutput } from '../../../../src/snapshot/output/stream.ts';

const MIB = 2 ** 20;
const root = join(import.meta.dirname, '../../../..');

let directory: string;
let fifo: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-stream-'));
  fifo = join(directory, 'fifo');
  execFileSync('mkfifo', [fifo]);
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

test('paths that are streams are recognised', async () => {
  const file = join(directory, 'file');
  writeFileSync(file, '');
  const paths = [
    '/dev/stdout',
    '/proc/self/fd/1',
    '/dev/null',
    fifo,
    file,
    directory,
    join(directory, 'none'),
  ];
  expect(await Promise.all(paths.map(isStream))).toEqual([true, true, true, true, false, false, false]);
});

describe('a FIFO', () => {
  test('is waited for, and gets everything in order', async () => {
    const opening = StreamOutput.open(fifo, undefined);
    await new Promise((resolve) => setTimeout(resolve, 100));
    const copy = join(directory, 'copy');
    const reader = spawn('sh', ['-c', `cat ${fifo} > ${copy}`]);
    const output = await opening;
    const part = new Uint8Array(3 * MIB);
    for (let i = 0; i < 4; i++) {
      part.fill(i + 1);
      await output.writeAt(part, i * part.length);
    }
    await output.commit();
    await once(reader, 'close');
    const read = readFileSync(copy);
    expect(read.length).toBe(12 * MIB);
    for (let i = 0; i < 4; i++) {
      expect(read.subarray(i * part.length, (i + 1) * part.length).every((byte) => byte === i + 1)).toBe(
        true,
      );
    }
    expect(await output.sizes()).toEqual({ fileBytes: 12 * MIB, allocatedBytes: 0 });
  }, 60_000);

  test('can be given up if nobody reads from it', async () => {
    const abort = new AbortController();
    const opening = StreamOutput.open(fifo, abort.signal);
    abort.abort();
    await expect(opening).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });

  test('can be given up if its reader stops', async () => {
    const abort = new AbortController();
    const reader = spawn('sh', ['-c', `exec 3< ${fifo}; sleep 600`], { detached: true });
    const output = await StreamOutput.open(fifo, abort.signal);
    const writing = output.writeAt(new Uint8Array(MIB), 0);
    abort.abort();
    await expect(writing).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await output.discard();
    process.kill(-(reader.pid ?? 0), 'SIGKILL');
    await once(reader, 'close');
  }, 60_000);

  test('a FIFO whose last bytes nobody takes can be given up, and then nobody gets them', async () => {
    const abort = new AbortController();
    const reader = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    const output = await StreamOutput.open(fifo, abort.signal);
    // As many as a pipe can hold (pipe(7)).
    await output.writeAt(new Uint8Array(65_536).fill(1), 0);
    const last = output.writeLast(new Uint8Array(16).fill(2));
    abort.abort();
    await expect(last).rejects.toMatchObject({ code: 'INTERRUPTED' });
    await output.discard();
    const got = Buffer.alloc(MIB);
    expect(readSync(reader, got)).toBe(65_536);
    expect(() => readSync(reader, got)).toThrow('EAGAIN');
    closeSync(reader);
  });

  test('ends well once it has its last bytes, whatever the signal says', async () => {
    const abort = new AbortController();
    const reader = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
    const output = await StreamOutput.open(fifo, abort.signal);
    await output.writeAt(new Uint8Array(16), 0);
    const last = output.writeLast(new Uint8Array(16));
    // The pipe has them already, though nobody has noticed.
    abort.abort();
    await last;
    await output.commit();
    expect(await output.sizes()).toMatchObject({ fileBytes: 32 });
    expect(readSync(reader, Buffer.alloc(64))).toBe(32);
    closeSync(reader);
  });

  test('gives an error with the offset if its reader has gone', async () => {
    const reader = spawn('sh', ['-c', `head -c 4096 ${fifo} > /dev/null`]);
    const output = await StreamOutput.open(fifo, undefined);
    await output.writeAt(new Uint8Array(4096), 0);
    await once(reader, 'close');
    await expect(output.writeAt(new Uint8Array(MIB), 4096)).rejects.toMatchObject({
      code: 'OUTPUT_WRITE',
      offset: 4096,
      hint: expect.stringContaining('reads'),
    });
    await output.discard();
  }, 60_000);
});

describe('a sink', () => {
  test('gets each piece if it is a function', async () => {
    const got: number[] = [];
    const output = StreamOutput.of(async (bytes) => {
      got.push(...bytes);
    }, undefined);
    await output.writeAt(Uint8Array.of(1, 2), 0);
    await output.writeAt(Uint8Array.of(3), 2);
    await output.commit();
    expect(got).toEqual([1, 2, 3]);
    await expect(output.writeAt(Uint8Array.of(4), 9)).rejects.toThrow(RangeError);
  });

  test('may keep what it gets if it is a Writable, and is left open', async () => {
    const through = new PassThrough({ highWaterMark: 1024 });
    const output = StreamOutput.of(through, undefined);
    const buffer = new Uint8Array(16).fill(1);
    await output.writeAt(buffer, 0);
    buffer.fill(2);
    await output.commit();
    await output.discard();
    expect([through.writableEnded, through.destroyed]).toEqual([false, false]);
    expect([...(through.read() as Buffer)]).toEqual(Array(16).fill(1));
  });

  test('has the last bytes if it takes them, although interrupted', async () => {
    const abort = new AbortController();
    let take = (): void => {};
    const slow = (): Promise<void> =>
      new Promise((resolve) => {
        take = resolve;
      });
    const output = StreamOutput.of(slow, abort.signal);
    const last = output.writeLast(new Uint8Array(4));
    abort.abort();
    take();
    await last;
    await output.commit();
    expect(await output.sizes()).toMatchObject({ fileBytes: 4 });
    await expect(output.writeLast(new Uint8Array(4))).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });

  test('ends the stream if it throws', async () => {
    const output = StreamOutput.of(() => Promise.reject(new Error('full')), undefined);
    await expect(output.writeAt(new Uint8Array(1), 0)).rejects.toMatchObject({
      code: 'OUTPUT_WRITE',
      offset: 0,
    });
  });
});

describe('standard output', () => {
  const script = `
    import { StreamOutput } from './src/snapshot/output/stream.ts';
    process.stdout.on('error', () => {});
    try {
      const output = await StreamOutput.open('/dev/stdout', undefined);
      for (let i = 0; i < 4; i++) await output.writeAt(new Uint8Array(${MIB}).fill(97 + i), i * ${MIB});
      await output.commit();
      console.error('done');
    } catch (error) {
      console.error(error.code);
    }`;

  function shell(how: string): { stdout: string; stderr: string } {
    const run = `${process.execPath} --import tsx --input-type=module -e "$SCRIPT"`;
    return spawnSync('bash', ['-c', how.replaceAll('RUN', run)], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, SCRIPT: script },
      maxBuffer: 64 * MIB,
    });
  }

  test.each([
    ['a pipe', 'RUN | cat | md5sum'],
    ['a slow pipe', 'RUN | (sleep 0.3; md5sum)'],
    ['a file', 'RUN > F; md5sum < F'],
    ['the end of a file', 'printf x > F; RUN >> F; tail -c +2 F | md5sum'],
  ])(
    '%s',
    (_, how) => {
      const { stdout, stderr } = shell(how.replaceAll('F', join(directory, 'f')));
      const expected = spawnSync('md5sum', {
        input: Buffer.concat(['a', 'b', 'c', 'd'].map((c) => Buffer.alloc(MIB, c))),
      });
      expect({ stdout, stderr }).toEqual({ stdout: expected.stdout.toString(), stderr: 'done\n' });
    },
    60_000,
  );

  test('may be a socket, as of a child of Node', () => {
    const { stdout, stderr } = shell('RUN');
    expect([stdout.length, stderr]).toEqual([4 * MIB, 'done\n']);
  }, 60_000);

  test('may lose its reader', () => {
    const { stderr } = shell('RUN | head -c 100 > /dev/null');
    expect(stderr).toBe('OUTPUT_WRITE\n');
  }, 60_000);
});

import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { EnvironmentError, InterruptedError } from '../../src/core/errors.ts';
import { type PipedStream, xlRestore } from '../../src/toolstack/xl/restore.ts';
import { fakeProgram } from '../support/fake-program.ts';

// A shell script called xl does what xl does to the stream that it restores from.

let directory: string;
let content: PipedStream;
let body: Buffer;
let takeAway = (): void => {};
const header = new TextEncoder().encode('another header');
const fifos = (): string[] => readdirSync(run()).filter((name) => name.startsWith('fifo-'));
/** Used instead of /run/xlsnap. */
const run = (): string => join(directory, 'run');
/** Returns the number that a script has written to a file; 0 until it exists. */
const pid = (name: string): number => {
  const path = join(directory, name);
  return existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
};

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-restore-'));
  mkdirSync(run(), { mode: 0o700 });
  const path = join(directory, 'memory.save');
  body = Buffer.alloc(3_000_001, 'some memory ');
  writeFileSync(path, Buffer.concat([Buffer.from('the old header'), body]));
  content = { path, start: 14, header, uuid: '3f8d2c1e-1111-4222-8333-444455556666' };
});
afterEach(() => {
  takeAway();
  rmSync(directory, { recursive: true });
});

function xl(script: string): void {
  takeAway = fakeProgram(directory, 'xl', `cd ${directory}\n${script}`);
}

describe('xlRestore', () => {
  it('gives the file itself to xl, with nothing on stdin', async () => {
    xl('printf "%s " "$@" > args; cat > stdin');
    await xlRestore(content.path, undefined, run());
    expect(readFileSync(join(directory, 'args'), 'utf8')).toBe(`restore -p ${content.path} `);
    expect(readFileSync(join(directory, 'stdin'))).toHaveLength(0);
  });

  it('gives xl another header and the rest of the file, by a name that xl can open', async () => {
    const before = fifos();
    xl('cat "$3" > got');
    await xlRestore(content, undefined, run());
    expect(readFileSync(join(directory, 'got')).equals(Buffer.concat([header, body]))).toBe(true);
    expect(readFileSync(content.path, 'utf8').startsWith('the old header')).toBe(true);
    expect(fifos()).toEqual(before);
  });

  it('reports how far xl, or what it has started, has read the file', async () => {
    const seen: (readonly [number, number])[] = [];
    const size = body.length + 14;
    // As libxl-save-helper does: a child that reads by the descriptor that xl has opened.
    xl('exec 3< "$3"; head -c 1000000 <&3 > /dev/null; sleep 1; cat <&3 > /dev/null; sleep 1');
    await xlRestore(content.path, undefined, run(), (...progress) => seen.push(progress));
    // head may have read more than it gave.
    expect(seen.some(([done]) => done >= 1_000_000 && done < size)).toBe(true);
    expect(seen.at(-1)).toEqual([size, size]);
    takeAway();
    seen.length = 0;
    xl('cat "$3" > /dev/null');
    await xlRestore(content, undefined, run(), (...progress) => seen.push(progress));
    expect(seen[0]).toEqual([14 + (1 << 20), size]);
    expect(seen.at(-1)).toEqual([size, size]);
  });

  it.each([
    ['reads nothing', 'exit 1'],
    ['hangs up early', 'head -c 100000 "$3" > /dev/null; exit 1'],
    ['reads all and fails', 'cat "$3" > /dev/null; exit 1'],
  ])('reports what an xl that %s said', async (_what, script) => {
    xl(`echo "progress 10%" >&2; echo "libxl: error: no memory" >&2; ${script}`);
    const failure = xlRestore(content, undefined, run());
    await expect(failure).rejects.toThrow(EnvironmentError);
    await expect(failure).rejects.toThrow('xl restore exited with status 1: no memory');
    await expect(failure).rejects.toHaveProperty('hint', expect.stringContaining('/var/log/xen'));
  });

  it('loses nothing of the last output of an xl that dies at once', async () => {
    xl(
      'i=0; while [ $i -lt 900 ]; do echo "line $i of many that fill the pipe"; i=$((i+1)); done >&2; echo "error: the last" >&2; exit 3',
    );
    for (let round = 0; round < 5; round++) {
      await expect(xlRestore(content.path, undefined, run())).rejects.toThrow('status 3: error: the last');
    }
  });

  it('does not wait for the monitor that xl leaves behind with its streams', async () => {
    xl('cat "$3" > got; (sleep 100; echo) & echo $! > monitor');
    await xlRestore(content, undefined, run());
    expect(readFileSync(join(directory, 'got'))).toHaveLength(header.length + body.length);
    // Throws if it has ended.
    process.kill(pid('monitor'));
  });

  it('ends when xl fails and something keeps its end of the stream open unread', async () => {
    xl('exec 3< "$3"; (sleep 100; echo) & echo $! > helper; echo "error: helper died" >&2; exit 2');
    await expect(xlRestore(content, undefined, run())).rejects.toThrow('status 2: error: helper died');
    process.kill(pid('helper'));
  });

  it.each([
    ['reads', 'exec 3< "$3"; echo $$ > pid; exec sleep 100'],
    ['has not opened it yet', 'echo $$ > pid; exec sleep 100'],
  ])('ends an xl that %s when aborted, and returns only when it is dead', async (_what, script) => {
    const before = fifos();
    xl(script);
    const abort = new AbortController();
    const failure = xlRestore(content, abort.signal, run()).catch((error: unknown) => error);
    while (pid('pid') === 0) await sleep(10);
    await sleep(50);
    abort.abort();
    expect(await failure).toBeInstanceOf(InterruptedError);
    expect(() => process.kill(pid('pid'), 0)).toThrow('ESRCH');
    expect(fifos()).toEqual(before);
  });

  it('starts nothing if the signal aborted before', async () => {
    xl('touch started');
    await expect(xlRestore(content, AbortSignal.abort(), run())).rejects.toThrow(InterruptedError);
    expect(existsSync(join(directory, 'started'))).toBe(false);
  });

  it('reports a memory file that cannot be read', async () => {
    xl('cat "$3" > got; [ $(wc -c < got) -gt 100 ] || { echo "error: short" >&2; exit 1; }');
    const failure = xlRestore({ ...content, path: join(directory, 'gone') }, undefined);
    await expect(failure).rejects.toMatchObject({ cause: { code: 'ENOENT' } });
  });

  it('reports that there is no xl', async () => {
    const path = process.env['PATH'];
    process.env['PATH'] = directory;
    takeAway = () => {
      process.env['PATH'] = path;
    };
    await expect(xlRestore(content.path, undefined, run())).rejects.toMatchObject({
      code: 'XL_RESTORE',
      cause: { code: 'ENOENT' },
    });
  });
});

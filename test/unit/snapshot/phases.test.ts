import { describe, expect, it } from 'vitest';
import { DiskError, InterruptedError } from '../../../src/core/errors.ts';
import type { Reporter } from '../../../src/core/reporter.ts';
import { Phases } from '../../../src/snapshot/phases.ts';

/** A phase runner with three undos; `broken` fails. */
function withUndos(did: string[], broken?: string): Phases {
  const phases = new Phases({});
  for (const name of ['one', 'two', 'three']) {
    phases.onUndo(`undid ${name}`, `undo ${name}`, () => {
      did.push(name);
      return name === broken ? Promise.reject(new Error(`${name} is stuck`)) : Promise.resolve();
    });
  }
  return phases;
}

describe('Phases', () => {
  it('times phases in order and reports them', async () => {
    const heard: string[] = [];
    const reporter: Reporter = {
      phase: (name, event, seconds) => heard.push(`${name} ${event} ${typeof seconds}`),
      progress() {},
      log() {},
    };
    const phases = new Phases({ reporter });
    expect(await phases.run('plan', () => Promise.resolve(7))).toBe(7);
    await expect(phases.run('open', () => Promise.reject(new Error('no')))).rejects.toThrow('no');
    expect(phases.timings).toEqual([
      { name: 'plan', startSeconds: expect.any(Number), seconds: expect.any(Number) },
    ]);
    expect(heard).toEqual([
      'plan start undefined',
      'plan end number',
      'open start undefined',
      'open failed number',
    ]);
  });

  it('undoes in reverse, and throws the first error', async () => {
    const did: string[] = [];
    const phases = withUndos(did);
    const first = new DiskError('TEST', 'the first');
    await phases.run('disks', () => Promise.reject(first)).catch(() => undefined);
    const error = await phases.fail(first);
    expect(error).toBe(first);
    expect(did).toEqual(['three', 'two', 'one']);
    expect(error.phase).toBe('disks');
    expect(error.undone).toEqual(['undid three', 'undid two', 'undid one']);
    expect(error.undoFailures).toEqual([]);
  });

  it('continues when an undo fails, and reports what to do by hand', async () => {
    const did: string[] = [];
    const error = await withUndos(did, 'two').fail(new DiskError('TEST', 'the first'));
    expect(did).toEqual(['three', 'two', 'one']);
    expect(error.message).toBe('the first');
    expect(error.undone).toEqual(['undid three', 'undid one']);
    expect(error.undoFailures).toEqual(['not undid two (two is stuck); by hand: undo two']);
  });

  it('undoes nothing twice, and nothing that was forgotten', async () => {
    const did: string[] = [];
    const phases = withUndos(did);
    const forget = phases.onUndo('x', 'x', () => Promise.reject(new Error('must not run')));
    forget();
    forget();
    await phases.fail(new Error('a'));
    await phases.fail(new Error('b'));
    expect(did).toEqual(['three', 'two', 'one']);
  });

  it('wraps an error that is not ours, with its cause', async () => {
    const cause = new TypeError('a bug');
    const error = await new Phases({}).fail(cause);
    expect(error).toMatchObject({ code: 'UNEXPECTED', exitCode: 1, message: 'a bug', cause });
    expect(await new Phases({}).fail('just words')).toMatchObject({ message: 'just words' });
  });

  it('keeps the phase that an error already has', async () => {
    const error = await new Phases({}).fail(new DiskError('TEST', 'x', { phase: 'preflight' }));
    expect(error.phase).toBe('preflight');
  });

  it('starts no phase once aborted; whatever breaks then is an interruption', async () => {
    const abort = new AbortController();
    const phases = new Phases({ signal: abort.signal });
    phases.checkpoint();
    abort.abort(new Error('SIGINT'));
    expect(() => phases.checkpoint()).toThrow(InterruptedError);
    let started = false;
    const run = phases.run('memory', async () => {
      started = true;
    });
    await expect(run).rejects.toThrow(InterruptedError);
    expect(started).toBe(false);
    const error = await phases.fail(new Error('EBADF'));
    expect(error).toBeInstanceOf(InterruptedError);
    expect(error.phase).toBe('memory');
  });

  it('ignores the signal behind the shield', async () => {
    const phases = new Phases({ signal: AbortSignal.abort() });
    phases.shield();
    phases.checkpoint();
    expect(await phases.run('finish', () => Promise.resolve(1))).toBe(1);
    expect(await phases.fail(new Error('x'))).not.toBeInstanceOf(InterruptedError);
  });

  it('gives up a phase that hangs after an abort, reports that, and lets the others be undone', async () => {
    const abort = new AbortController();
    const phases = new Phases({ signal: abort.signal, graceMs: 1 });
    const did: string[] = [];
    phases.onUndo('undid one', 'undo one', async () => did.push('one'));
    let release = (): void => {};
    const late = { [Symbol.asyncDispose]: async () => void did.push('disposed of') };
    const run = phases.run('disks', () => {
      abort.abort();
      return new Promise<AsyncDisposable>((resolve) => {
        release = () => resolve(late);
      });
    });
    const error = await phases.fail(await run.catch((problem: unknown) => problem));
    expect(error).toMatchObject({ code: 'INTERRUPTED', phase: 'disks', undone: ['undid one'] });
    expect(error.undoFailures).toEqual([expect.stringMatching(/^phase disks did not end.*by hand/)]);
    const over = phases.hanging;
    release();
    await over;
    expect(did).toEqual(['one', 'disposed of']);
  });

  it('waits for a phase that ends in time after an abort', async () => {
    const abort = new AbortController();
    const phases = new Phases({ signal: abort.signal, graceMs: 10_000 });
    const run = phases.run('disks', async () => {
      abort.abort();
      await new Promise((resolve) => setTimeout(resolve, 5));
      return 7;
    });
    expect(await run).toBe(7);
    expect(phases.hanging).toBeUndefined();
  });

  it('undoing continues without an undo that hangs', async () => {
    const phases = new Phases({ undoTimeoutMs: 1 });
    const did: string[] = [];
    phases.onUndo('undid one', 'undo one', async (failed) => did.push(`one, after a failure: ${failed}`));
    phases.onUndo('undid two', 'undo two', () => new Promise(() => {}));
    const error = await phases.fail(new DiskError('TEST', 'the first'));
    expect(did).toEqual(['one, after a failure: true']);
    expect(error.undoFailures).toEqual([
      expect.stringMatching(/^not undid two.*made no progress.*undo two$/),
    ]);
  });
});

import { describe, expect, test } from 'vitest';
import type { EndingSignal } from '../../../src/cli/context.ts';
import {
  DiskError,
  EnvironmentError,
  EXIT,
  InterruptedError,
  SuspendError,
} from '../../../src/core/errors.ts';
import { xlsnap } from './support.ts';

const create = ['snapshot-create', 'guest1'];

function suspendError(): SuspendError {
  const error = new SuspendError('SUSPEND_TIMEOUT', 'the guest did not suspend within 60 s', {
    phase: 'suspend',
    domid: 7,
    hint: 'try --timeout 120',
    cause: new Error('watch timed out'),
  });
  error.undone = ['resumed the guest', 'removed /x.partial'];
  error.undoFailures = ['not removed /y (EIO); by hand: rm /y'];
  return error;
}

describe('an error', () => {
  const world = { calls: { createSnapshot: () => Promise.reject(suspendError()) } };

  test('says what failed, in which phase, what was undone, and what to do next', async () => {
    const { code, stdout, stderr, closed } = await xlsnap(create, world);
    expect({ code, stdout, closed }).toEqual({ code: EXIT.suspend, stdout: '', closed: 1 });
    expect(stderr.split('\n')).toEqual([
      'error: the guest did not suspend within 60 s',
      '  because: watch timed out',
      '  in phase: suspend',
      '  undone: resumed the guest; removed /x.partial',
      '  NOT UNDONE: not removed /y (EIO); by hand: rm /y',
      '  next: try --timeout 120',
      '',
    ]);
  });

  test('is one JSON object with --json', async () => {
    const { stderr } = await xlsnap([...create, '--json'], world);
    expect(JSON.parse(stderr)).toEqual({
      message_type: 'error',
      name: 'SuspendError',
      code: 'SUSPEND_TIMEOUT',
      message: 'the guest did not suspend within 60 s',
      exit_code: EXIT.suspend,
      phase: 'suspend',
      domid: 7,
      hint: 'try --timeout 120',
      undone: ['resumed the guest', 'removed /x.partial'],
      undo_failures: ['not removed /y (EIO); by hand: rm /y'],
      cause: 'watch timed out',
    });
  });

  test('is red on a terminal, unless NO_COLOR is set or the terminal is dumb', async () => {
    const shown = async (env: Record<string, string>): Promise<string> =>
      (await xlsnap(create, { ...world, tty: true, env })).stderr;
    expect(await shown({})).toContain('\x1b[31merror:\x1b[0m ');
    expect(await shown({ NO_COLOR: '1' })).not.toContain('\x1b[31m');
    expect(await shown({ NO_COLOR: '' })).toContain('\x1b[31m');
    expect(await shown({ TERM: 'dumb' })).not.toContain('\x1b');
  });

  test('cannot control the terminal', async () => {
    const { stderr } = await xlsnap(create, {
      calls: { createSnapshot: () => Promise.reject(new DiskError('X', 'QEMU said \x1b[2J\r')) },
    });
    expect(stderr).toBe('error: QEMU said ?[2J?\n');
  });

  test('has the same form if the host cannot be opened', async () => {
    const { code, stderr } = await xlsnap(create, {
      openHost: () => Promise.reject(new EnvironmentError('NO_XEN', 'no /dev/xen/privcmd')),
    });
    expect({ code, stderr }).toEqual({ code: EXIT.environment, stderr: 'error: no /dev/xen/privcmd\n' });
  });
});

describe('a bug', () => {
  test('shows its stack', async () => {
    const world = { calls: { createSnapshot: () => Promise.reject(new TypeError('x is no function')) } };
    const { code, stderr } = await xlsnap(create, world);
    expect(code).toBe(EXIT.bug);
    expect(stderr).toMatch(
      /^bug: x is no function\nTypeError: x is no function\n +at [\s\S]*Please report this/,
    );
    const json = JSON.parse((await xlsnap([...create, '--json'], world)).stderr) as Record<string, unknown>;
    expect(json).toMatchObject({ message_type: 'error', code: 'BUG', exit_code: EXIT.bug });
    expect(json['stack']).toMatch(/errors\.test/);
  });

  test('is reported even if something odd is thrown', async () => {
    const { code, stderr } = await xlsnap(create, { calls: { createSnapshot: () => Promise.reject('odd') } });
    expect(code).toBe(EXIT.bug);
    expect(stderr).toMatch(/^bug: odd\n/);
  });
});

test('an error while closing hides neither the result nor the first error', async () => {
  const closeHost = (): Promise<void> => Promise.reject(new Error('EBADF'));
  const good = await xlsnap(create, { closeHost });
  expect(good.code).toBe(0);
  expect(good.stdout).toContain('To revert:');
  expect(good.stderr).toContain('warning: closing: EBADF');
  const bad = await xlsnap(create, {
    closeHost,
    calls: { createSnapshot: () => Promise.reject(suspendError()) },
  });
  expect(bad.code).toBe(EXIT.suspend);
});

describe('the hint of a usage error', () => {
  test.each([
    [['create'], 'did you mean snapshot-create?'],
    [['list', 'guest1'], 'did you mean snapshot-list?'],
    [['snapshot-create', '--nonsense'], 'xlsnap snapshot-create --help'],
    [['nonsense'], 'xlsnap --help lists the commands'],
    [['revert'], 'did you mean snapshot-revert?'],
    [['snapshot-creat', 'x'], 'did you mean snapshot-create? xlsnap --help lists the commands'],
    [['snapshot-create', 'x', '--dryrun'], 'did you mean --dry-run? xlsnap snapshot-create --help'],
  ])('%j: %s', async (args, hint) => {
    const { code, stderr } = await xlsnap(args);
    expect(code).toBe(EXIT.usage);
    expect(stderr).toContain(`\n  hint: ${hint}\n`);
    expect(stderr.match(/did you mean/gi) ?? []).toHaveLength(hint.includes('did you mean') ? 1 : 0);
  });
});

describe('signals', () => {
  /** Runs a create that receives signals and then ends by `end`. */
  async function interrupted(names: readonly EndingSignal[], end: (signal: AbortSignal) => Promise<never>) {
    let send: (signal: EndingSignal) => void = () => {};
    return await xlsnap(create, {
      signals: (deliver) => {
        send = deliver;
      },
      calls: {
        createSnapshot: async (_host, _request, { signal }) => {
          if (signal === undefined) throw new Error('no signal was handed on');
          expect(signal.aborted).toBe(false);
          for (const name of names) send(name);
          expect(signal.aborted).toBe(true);
          return await end(signal);
        },
      },
    });
  }
  const undone = (): Promise<never> => Promise.reject(new InterruptedError('INTERRUPTED', 'interrupted'));

  test.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
    ['SIGHUP', 129],
  ] as const)('%s aborts: %i', async (name, code) => {
    const outcome = await interrupted([name], undone);
    expect(outcome.code).toBe(code);
    expect(outcome.closed).toBe(1);
    expect(outcome.stderr).toMatch(new RegExp(`${name}: stopping.*\\ninterrupted\\n$`));
  });

  test('ends in yellow with what was undone, and not as an error', async () => {
    const error = new InterruptedError('INTERRUPTED', 'interrupted', {
      cause: new Error('SIGINT'),
      phase: 'memory',
    });
    error.undone = ['resumed the guest'];
    const calls = { createSnapshot: () => Promise.reject(error) };
    const { stderr } = await xlsnap(create, { calls, tty: true });
    expect(stderr).toBe('\x1b[33minterrupted\x1b[0m\n  in phase: memory\n  undone: resumed the guest\n');
  });

  test('a second one is answered: xlsnap is still undoing', async () => {
    const { code, stderr } = await interrupted(['SIGINT', 'SIGINT', 'SIGTERM'], undone);
    expect(code).toBe(130);
    expect(stderr).toContain('SIGINT: still undoing');
    expect(stderr).toContain('SIGTERM: still undoing');
  });

  test('another error keeps its own code', async () => {
    const { code } = await interrupted(['SIGINT'], () => Promise.reject(suspendError()));
    expect(code).toBe(EXIT.suspend);
  });
});

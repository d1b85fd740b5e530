import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { toDomid } from '../../src/core/brand.ts';
import { DomainError, EnvironmentError, EXIT, InterruptedError } from '../../src/core/errors.ts';
import { FakeHost } from '../../src/testing/fake-host.ts';
import { findByName, findByUuid, findDomain } from '../../src/toolstack/libxl/find-domain.ts';
import { editStoredConfig } from '../../src/toolstack/libxl/userdata.ts';
import { runProgram, runUnkilled } from '../../src/toolstack/process/run.ts';
import { destroyDomain, domainConfig } from '../../src/toolstack/xl/commands.ts';
import { lockFile } from '../../src/xenctrl/flock.ts';
import { XenstoreClient } from '../../src/xenstore/client.ts';
import { FakeXenstored } from '../../src/xenstore/testing.ts';
import { fakeProgram } from '../support/fake-program.ts';

// Real processes and real locks, with shell scripts called xl.

let directory: string;
let takeAway = (): void => {};
const at = (name: string): string => join(directory, name);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-programs-'));
});
afterEach(() => {
  takeAway();
  takeAway = () => {};
  rmSync(directory, { recursive: true });
});

function xl(script: string): void {
  takeAway = fakeProgram(directory, 'xl', `cd ${directory}\n${script}`);
}

/** Limits that should never be reached, even on a very busy machine. */
const limits = { timeoutMs: 50_000 };

const pid = (): number => Number(read('pid'));
const read = (name: string): string => (existsSync(at(name)) ? readFileSync(at(name), 'utf8') : '');

async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await sleep(10);
}

/**
 * Returns the error of a program that runs forever, after a short limit. On a busy machine, the script's
 * first line, which writes `pid`, may not have run by then; the program then gets more time.
 */
async function timedOut(args: readonly string[] = []): Promise<unknown> {
  for (let timeoutMs = 300; ; timeoutMs *= 2) {
    const error = await runProgram('xl', args, { timeoutMs }).catch((cause: unknown) => cause);
    if (pid() > 0) {
      expect(error).toHaveProperty('message', expect.stringContaining(`within ${timeoutMs / 1000} s`));
      return error;
    }
  }
}

describe('runProgram', () => {
  it('returns status and output, and passes arguments unchanged', async () => {
    xl(`printf '<%s>' "$@"; echo "$LC_ALL" >&2; exit 3`);
    expect(await runProgram('xl', ['a b', '$HOME', '*', "'"], limits)).toEqual({
      status: 3,
      stdout: "<a b><$HOME><*><'>",
      stderr: 'C\n',
    });
  });

  it('returns -1 if a signal ended the program', async () => {
    xl('kill -9 $$');
    expect((await runProgram('xl', [], limits)).status).toBe(-1);
  });

  it('says which program is missing', async () => {
    await expect(runProgram('no-such-program', [], limits)).rejects.toMatchObject({
      code: 'NO_PROGRAM',
      message: expect.stringMatching(/^there is no program no-such-program in .*:\/sbin/),
    });
  });

  it('says why a program cannot be run', async () => {
    writeFileSync(at('data'), '', { mode: 0o600 });
    await expect(runProgram(at('data'), [], limits)).rejects.toMatchObject({
      code: 'PROGRAM',
      cause: { code: 'EACCES' },
    });
  });

  it('distinguishes too much output from a time-out', async () => {
    xl('head -c 70000000 /dev/zero');
    await expect(runProgram('xl', [], limits)).rejects.toMatchObject({ code: 'PROGRAM' });
  });

  it('ends a program that takes too long', async () => {
    xl('echo $$ > pid; exec sleep 100');
    expect(await timedOut(['list'])).toMatchObject({
      code: 'PROGRAM_TIMEOUT',
      message: expect.stringMatching(/^xl list did not exit within [\d.]+ s$/),
    });
    expect(() => process.kill(pid(), 0)).toThrow('ESRCH');
  });

  it('does not wait forever for what a program leaves behind', async () => {
    xl('setsid sleep 100 & echo $! > pid');
    expect(await timedOut()).toMatchObject({ code: 'PROGRAM_TIMEOUT' });
    process.kill(pid());
  });

  it('keeps our Ctrl-C away from the program', async () => {
    // proc(5): the fifth field is the process group.
    xl('set -- $(cat /proc/$$/stat); echo $5 $$');
    const { stdout } = await runProgram('xl', [], limits);
    const [group, own] = stdout.trim().split(/\s+/);
    expect(own).toMatch(/^\d+$/);
    expect(group).toBe(own);
  });

  it('ends a program that ignores SIGTERM', async () => {
    xl('trap "" TERM; echo $$ > pid; while :; do sleep 0.05; done');
    expect(await timedOut()).toMatchObject({ code: 'PROGRAM_TIMEOUT' });
    expect(() => process.kill(pid(), 0)).toThrow('ESRCH');
  });

  it('ends the program when the signal aborts', async () => {
    xl('echo $$ > pid; exec sleep 100');
    const abort = new AbortController();
    const work = runProgram('xl', [], { ...limits, signal: abort.signal }).catch((error: unknown) => error);
    await until(() => pid() > 0);
    abort.abort();
    expect(await work).toBeInstanceOf(InterruptedError);
  });

  it('starts nothing if the signal aborted before', async () => {
    xl('touch started');
    const work = runProgram('xl', [], { ...limits, signal: AbortSignal.abort() });
    await expect(work).rejects.toThrow(InterruptedError);
    expect(existsSync(at('started'))).toBe(false);
  });
});

describe('runUnkilled', () => {
  it('starts nothing if the signal aborts before the program begins', async () => {
    xl('touch started');
    const abort = new AbortController();
    const work = runUnkilled('xl', ['destroy', '7'], { signal: abort.signal });
    abort.abort();
    await expect(work).rejects.toThrow(InterruptedError);
    expect(existsSync(at('started'))).toBe(false);
  });
});

describe('domainConfig', () => {
  const config = { c_info: { name: 'guest1' }, big: 1 };
  it.each([
    ['a list', JSON.stringify([{ domid: 7, config }])],
    ['an object', JSON.stringify({ domid: 7, config })],
  ])('accepts %s', async (_what, answer) => {
    xl(`[ "$*" = "list -l 7" ] && echo '${answer}'`);
    expect(await domainConfig(toDomid(7))).toEqual(config);
  });

  it.each(['[{"domid": 7}]', '[{"domid": 7, "config": null}]'])(
    'says to try again where a domain that has just been rebooted has no configuration yet: %s',
    async (answer) => {
      xl(`echo '${answer}'`);
      await expect(domainConfig(toDomid(7))).rejects.toMatchObject({
        code: 'DOMAIN_STARTING',
        exitCode: EXIT.domain,
        hint: expect.stringMatching(/rebooted.*try again/),
      });
    },
  );

  it.each([
    ['garbage', 'echo "{"', 'its output is not JSON'],
    ['nothing', ':', 'its output is not JSON'],
    ['no domain', 'echo "[]"', 'its output names no domain'],
    ['a failure', 'echo "libxl: error: no such domain" >&2; exit 1', 'no such domain'],
    ['a silent failure', 'exit 1', 'it printed nothing'],
  ])('refuses %s', async (_what, script, message) => {
    xl(script);
    const failure = domainConfig(toDomid(7));
    await expect(failure).rejects.toThrow(EnvironmentError);
    await expect(failure).rejects.toThrow(/^xl list -l 7 failed: /);
    await expect(failure).rejects.toThrow(message);
  });
});

describe("xl's commands, with a xenstored", () => {
  let xenstored: FakeXenstored;
  let xenstore: XenstoreClient;
  let host: FakeHost;

  beforeEach(async () => {
    xenstored = await FakeXenstored.listen(at('xenstored'), {
      '/local/domain/0/name': 'Domain-0',
      '/local/domain/7/name': 'guest1',
      '/local/domain/7/vm': '/vm/3f8d2c1e-1111-4222-8333-444455556666',
      '/local/domain/9/name': '7',
      '/local/domain/10/name': 'b0c49775-7d00-4b98-8ecd-e83645368a6e',
    });
    xenstore = await XenstoreClient.connect({ path: at('xenstored') });
    host = new FakeHost({ directory });
  });
  afterEach(async () => {
    await xenstore.close();
    await xenstored[Symbol.asyncDispose]();
  });

  it.each([
    ['guest1', 7],
    ['7', 7],
    ['Domain-0', 0],
    ['12', 12],
    ['guest2', undefined],
    ['3f8d2c1e-1111-4222-8333-444455556666', 7],
    ['3F8D2C1E-1111-4222-8333-444455556666', 7],
    ['3f8d2c1e-1111-4222-8333-444455556667', undefined],
    ['b0c49775-7d00-4b98-8ecd-e83645368a6e', 10],
    ['99999999', undefined],
  ])('find %s', async (name, domid) => {
    expect(await findDomain(xenstore, name)).toBe(domid);
  });

  it('find a stored name or uuid as such, and never take a name for a domid', async () => {
    expect(await findByName(xenstore, 'guest1')).toBe(7);
    expect(await findByName(xenstore, '7')).toBe(9);
    expect(await findByName(xenstore, '3f8d2c1e-1111-4222-8333-444455556666')).toBeUndefined();
    expect(await findByUuid(xenstore, '3f8d2c1e-1111-4222-8333-444455556666')).toBe(7);
    expect(await findByUuid(xenstore, 'guest1')).toBeUndefined();
  });

  const destroy = (timeoutMs = limits.timeoutMs, signal?: AbortSignal): Promise<void> =>
    destroyDomain(host.hypervisor, xenstore, toDomid(7), {
      timeoutMs,
      ...(signal === undefined ? {} : { signal }),
    });

  it('wait until the domain and its QEMU no longer exist', async () => {
    const qemu = spawn('sleep', ['100']);
    xenstored.set('/local/domain/7/image/device-model-pid', String(qemu.pid));
    xl('echo "$*" > args');
    let over = false;
    const done = destroy().then(() => {
      over = true;
    });
    await sleep(300);
    expect(over).toBe(false);
    host.domid = undefined;
    await sleep(300);
    expect(over).toBe(false);
    qemu.kill();
    await done;
    expect(readFileSync(at('args'), 'utf8')).toBe('destroy 7\n');
  });

  /** The limit applies to xl too, and xl is not what should be too slow. */
  const ENOUGH_FOR_XL_MS = 3000;

  it('report a QEMU that stays', async () => {
    xenstored.set('/local/domain/7/image/device-model-pid', String(process.pid));
    xl('sleep 1');
    const failure = destroy(ENOUGH_FOR_XL_MS);
    setTimeout(() => (host.domid = undefined), 300);
    await expect(failure).rejects.toMatchObject({
      code: 'DESTROY_TIMEOUT',
      message: expect.stringContaining(`its QEMU (pid ${process.pid}) is still running`),
    });
  });

  it('report a domain that stays', async () => {
    xl('exit 0');
    await expect(destroy(ENOUGH_FOR_XL_MS)).rejects.toThrow('the domain still exists');
  });

  it('report what xl said if it failed, unless the domain no longer exists anyway', async () => {
    xl('echo "libxl: error: no way" >&2; exit 1');
    const failure = destroy();
    await expect(failure).rejects.toThrow(DomainError);
    await expect(failure).rejects.toThrow('xl destroy 7 failed: libxl: error: no way');
    xl('sleep 1; exit 1');
    const done = destroy();
    setTimeout(() => (host.domid = undefined), 300);
    await done;
  });

  it('report a domain that did not exist to begin with: it may run with another domid', async () => {
    xl('exit 0');
    host.domid = undefined;
    await expect(destroy()).rejects.toMatchObject({
      code: 'DESTROY',
      message: expect.stringContaining('there is no domain 7 to destroy'),
    });
  });

  it('never kill xl, neither when aborted nor when it takes too long', async () => {
    xl('echo $$ > pid; sleep 1; touch over');
    const over = (): boolean => existsSync(at('over'));
    const work = destroy(limits.timeoutMs, AbortSignal.timeout(300)).catch((error: unknown) => error);
    expect(await work).toBeInstanceOf(InterruptedError);
    expect(over()).toBe(true);
    rmSync(at('over'));
    await expect(destroy(300)).rejects.toMatchObject({
      code: 'DESTROY_TIMEOUT',
      message: expect.stringMatching(/xl destroy 7 \(pid \d+\) .* still running/),
    });
    expect(over()).toBe(false);
    await until(over);
  });

  it('end when aborted', async () => {
    xl('exit 0');
    const abort = new AbortController();
    const work = destroy(limits.timeoutMs, abort.signal).catch((error: unknown) => error);
    await sleep(200);
    abort.abort();
    expect(await work).toBeInstanceOf(InterruptedError);
  });
});

/** Another program that holds a lock file, as libxl would, until it is asked to release it. */
async function holdLock(path: string): Promise<{ letGo: (remove: boolean) => Promise<void> }> {
  const holder = spawn('flock', [
    path,
    'sh',
    '-c',
    'echo held; read line; [ "$line" = remove ] && rm "$0"; exit 0',
    path,
  ]);
  await new Promise((resolve) => holder.stdout.once('data', resolve));
  return {
    letGo: async (remove) => {
      holder.stdin.end(remove ? 'remove\n' : 'keep\n');
      await new Promise((resolve) => holder.once('exit', resolve));
    },
  };
}

describe('lockFile', () => {
  it.each([true, false])(
    'waits for another program, which removes the file (%s) as it releases the lock',
    async (remove) => {
      const holder = await holdLock(at('lock'));
      let held = false;
      const lock = lockFile(at('lock'), limits.timeoutMs).then((one) => {
        held = true;
        return one;
      });
      await sleep(200);
      expect(held).toBe(false);
      await holder.letGo(remove);
      await using _lock = await lock;
      // The lock is on the file of that name: another program sees it.
      const other = spawn('flock', ['-n', at('lock'), 'true']);
      const status = await new Promise((resolve) => other.once('exit', resolve));
      expect(status).toBe(1);
    },
  );

  it('gives up in time, and says so', async () => {
    const holder = await holdLock(at('lock'));
    await expect(lockFile(at('lock'), 200)).rejects.toMatchObject({ code: 'LOCK_BUSY' });
    await holder.letGo(false);
  });

  it('admits one holder after the other', async () => {
    let inside = 0;
    const one = async (): Promise<void> => {
      await using _lock = await lockFile(at('lock'), limits.timeoutMs);
      expect(++inside).toBe(1);
      await sleep(20);
      inside--;
    };
    await Promise.all([one(), one(), one()]);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('reports a file that cannot be created', async () => {
    await expect(lockFile(at('none/lock'), 100)).rejects.toMatchObject({ code: 'LOCK' });
  });
});

describe('editStoredConfig', () => {
  const domain = { domid: 7, uuid: '3f8d2c1e-1111-4222-8333-444455556666' };
  const name = (kind: string, what: string): string => `userdata-${kind}.7.${domain.uuid}.${what}`;
  const stored = (): string => readFileSync(at(name('d', 'libxl-json')), 'utf8');

  it('changes what libxl stores, whole integers and trailing NUL included, and leaves no other file', async () => {
    writeFileSync(at(name('d', 'libxl-json')), '{"a": 18446744073709551615}\n\0');
    await editStoredConfig(domain, (config) => ({ ...config, b: 1 }), { directory });
    expect(stored()).toBe('{\n    "a": 18446744073709551615,\n    "b": 1\n}\n\0');
    expect(readdirSync(directory)).toEqual([name('d', 'libxl-json')]);
  });

  it('waits for libxl, and reads what libxl wrote by then', async () => {
    writeFileSync(at(name('d', 'libxl-json')), '{"a": 1}');
    const holder = await holdLock(at(name('l', 'domain-userdata-lock')));
    const done = editStoredConfig(domain, (config) => ({ ...config, b: 1 }), { directory });
    await sleep(100);
    expect(stored()).toBe('{"a": 1}');
    writeFileSync(at(name('d', 'libxl-json')), '{"a": 2}');
    await holder.letGo(true);
    await done;
    expect(JSON.parse(stored().replace('\0', ''))).toEqual({ a: 2, b: 1 });
  });

  it('gives up after the time that a guest may be stopped, and changes nothing', async () => {
    writeFileSync(at(name('d', 'libxl-json')), '{"a": 1}');
    const holder = await holdLock(at(name('l', 'domain-userdata-lock')));
    const edit = editStoredConfig(domain, (config) => ({ ...config, b: 1 }), {
      directory,
      lockTimeoutMs: 300,
    });
    await expect(edit).rejects.toMatchObject({ code: 'LOCK_BUSY' });
    expect(stored()).toBe('{"a": 1}');
    await holder.letGo(true);
  });

  it.each([
    ['there is none', undefined],
    ['it is no JSON', '{'],
  ])('reports that %s, and changes nothing', async (_what, text) => {
    if (text !== undefined) writeFileSync(at(name('d', 'libxl-json')), text);
    const before = readdirSync(directory);
    await expect(editStoredConfig(domain, (config) => config, { directory })).rejects.toMatchObject({
      code: 'LIBXL_CONFIG_UPDATE',
    });
    expect(readdirSync(directory)).toEqual(before);
  });
});

import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import { GuestHold } from '../../../../src/snapshot/guest/hold.ts';
import type { DeviceModel } from '../../../../src/snapshot/ports.ts';
import { FakeHost } from '../../../../src/testing/fake-host.ts';
import { tempDir } from '../../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let host: FakeHost;
let hold: GuestHold;
const limits = { timeoutMs: 1000 };

beforeEach(async () => {
  directory = await tempDir();
  host = new FakeHost({ directory: directory.path, type: 'hvm' });
  hold = new GuestHold(host.hypervisor, toDomid(7));
});
afterEach(() => directory[Symbol.asyncDispose]());

async function deviceModel(): Promise<DeviceModel> {
  const found = await host.toolstack.openDeviceModel(toDomid(7), host.config);
  if (found === undefined) throw new Error('no device model');
  return found;
}

describe('GuestHold', () => {
  it.each([0, 1, 3])('pauses a guest again that was paused %d times', async (pauses) => {
    host.pauses = pauses;
    await hold.suspend(limits);
    await hold.stop(await deviceModel());
    expect(host.suspended && host.machineStopped).toBe(true);
    await hold.release();
    expect(host).toMatchObject({ pauses, suspended: false, machineStopped: false });
    expect(host.runs).toBe(pauses === 0);
  });

  it('does nothing to a guest that it has not held', async () => {
    await hold.release();
    expect(host.calls).toEqual([]);
  });

  it('pauses the guest again before it resumes', async () => {
    host.pauses = 1;
    await hold.suspend(limits);
    await hold.stop(await deviceModel());
    host.fault = () => expect(host.runs).toBe(false);
    await hold.release();
  });

  it.each(['unpause', 'suspend', 'stop'])('puts back what was done before %s failed', async (broken) => {
    host.pauses = 2;
    let count = 0;
    host.fault = (call) => {
      if (call === broken && (call !== 'unpause' || ++count === 2)) throw new Error('no');
    };
    const held = hold.suspend(limits).then(async () => hold.stop(await deviceModel()));
    await expect(held).rejects.toThrow('no');
    host.fault = () => {};
    await hold.release();
    expect(host).toMatchObject({ pauses: 2, suspended: false, machineStopped: false });
  });

  it('resumes a guest that suspended although the call failed', async () => {
    host.hypervisor.suspend = () => {
      host.suspended = true;
      return Promise.reject(new Error('timed out'));
    };
    await expect(hold.suspend(limits)).rejects.toThrow('timed out');
    await hold.release();
    expect(host.runs).toBe(true);
  });

  it.each(['pause', 'cont', 'vitals', 'resume'])('does nothing twice when %s failed once', async (broken) => {
    host.pauses = 2;
    await hold.suspend(limits);
    await hold.stop(await deviceModel());
    let failed = false;
    host.fault = (call) => {
      if (call !== broken || failed) return;
      failed = true;
      throw new Error('once');
    };
    await expect(hold.release()).rejects.toThrow('once');
    await hold.release();
    await hold.release();
    expect(host).toMatchObject({ pauses: 2, suspended: false, machineStopped: false });
    expect(host.calls.filter((call) => call === 'resume')).toHaveLength(broken === 'resume' ? 2 : 1);
  });

  it('a guest resumes whose QEMU never answers', async () => {
    await hold.suspend(limits);
    await hold.stop(await deviceModel());
    host.fault = (call) => (call === 'cont' ? new Promise<never>(() => {}) : undefined);
    vi.useFakeTimers();
    try {
      const released = expect(hold.release()).rejects.toMatchObject({ code: 'QEMU_HANGS' });
      await vi.advanceTimersByTimeAsync(6000);
      await released;
    } finally {
      vi.useRealTimers();
    }
    expect(host.suspended).toBe(false);
  });

  it('resumes without xenstore or names', async () => {
    await hold.suspend(limits);
    await hold.stop(await deviceModel());
    host.calls.length = 0;
    await hold.release();
    expect(new Set(host.calls)).toEqual(new Set(['vitals', 'cont', 'resume']));
  });
});

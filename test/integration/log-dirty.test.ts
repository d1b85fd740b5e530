/**
 * Tests the dirty log of the QEMU that Debian has for Xen, without Xen: the machine `none` has memory
 * regions, and the log needs nothing else. (A plain QEMU has only a stub of the command.)
 */
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient } from '../../src/qmp/client.ts';
import { queryStatus, setGlobalDirtyLog } from '../../src/qmp/commands.ts';
import { DirtyLog } from '../../src/snapshot/guest/dirty-log.ts';
import { FakeGuest } from '../../src/testing/fake-guest.ts';
import { QemuDeviceModel } from '../../src/toolstack/qemu/device-model.ts';
import { type Qemu, startQemu } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

const PROGRAM = '/usr/libexec/xen-qemu-system-i386';

let directory: Awaited<ReturnType<typeof tempDir>>;
let qemu: Qemu;
let client: QmpClient;
beforeEach(async () => {
  directory = await tempDir();
  qemu = await startQemu(directory.path, [], PROGRAM, ['-M', 'none', '-accel', 'qtest', '-display', 'none']);
  client = await QmpClient.connect(qemu.socket);
});
afterEach(async () => {
  await client.close();
  await qemu[Symbol.asyncDispose]();
  await directory[Symbol.asyncDispose]();
});

/** Returns whether QEMU still answers: it takes one command after the other. */
const lives = async (): Promise<boolean> => (await queryStatus(client)).status !== '';

describe('QEMU for Xen', () => {
  it('aborts when its dirty log is turned off while it is off', async () => {
    await expect(setGlobalDirtyLog(client, false)).rejects.toMatchObject({ code: 'QMP_CLOSED' });
    await expect(qemu.ended).rejects.toThrow(/memory_global_dirty_log_do_stop: Assertion/);
  });

  it('aborts when its dirty log is turned off twice', async () => {
    await setGlobalDirtyLog(client, true);
    await setGlobalDirtyLog(client, false);
    await expect(setGlobalDirtyLog(client, false)).rejects.toMatchObject({ code: 'QMP_CLOSED' });
    await expect(qemu.ended).rejects.toThrow(/memory_global_dirty_log_do_stop: Assertion/);
  });

  it('QEMU survives a dirty log that is started, stopped, and stopped again by another process', async () => {
    const deviceModel = new QemuDeviceModel(client, []);
    const log = new DirtyLog(new FakeGuest(), deviceModel);
    await log.start();
    await log.stop();
    await log.stop();
    await DirtyLog.adopt(new FakeGuest(), deviceModel).stop();
    await DirtyLog.adopt(new FakeGuest(), deviceModel).stop();
    expect(await lives()).toBe(true);
  });

  it('survives the stop of a dirty log that another program has stopped', async () => {
    const log = new DirtyLog(new FakeGuest(), new QemuDeviceModel(client, []));
    await log.start();
    await setGlobalDirtyLog(client, false);
    await log.stop();
    expect(await lives()).toBe(true);
  });
});

it('a QEMU that has died is reported as dead, and its dirty log as over', async () => {
  const guest = new FakeGuest();
  const log = new DirtyLog(guest, new QemuDeviceModel(client, []));
  await log.start();
  process.kill(qemu.pid, 'SIGKILL');
  await expect(qemu.ended).rejects.toThrow(/ended/);
  expect(await log.stop()).toMatchObject({ code: 'QEMU_DIED', hint: expect.stringContaining('xl destroy') });
  expect([log.on, guest.logging]).toEqual([false, false]);
});

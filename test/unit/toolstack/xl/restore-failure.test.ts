import { utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { firstCause, isOfDeviceModel, lastOfQemuLog } from '../../../../src/toolstack/xl/restore-failure.ts';
import { tempDir } from '../../../support/temp.ts';

/** What xl 4.20 prints when memory runs out during a restore. */
const NO_MEMORY = `Loading new save file i1.save (new xl fmt info 0x3/0x0/1530)
 Savefile contains xl domain config in JSON format
Parsing config from <saved>
xc: info: Found x86 HVM domain from Xen 4.20
xc: info: Restoring domain
xc: error: Failed to populate physmap (12 = Cannot allocate memory): Internal error
xc: error: Restore failed (12 = Cannot allocate memory): Internal error
libxl: error: libxl_stream_read.c:877:libxl__xc_domain_restore_done: restoring domain: Cannot allocate memory
libxl: error: libxl_create.c:1903:domcreate_rebuild_done: Domain 25:cannot (re-)build domain: -3
libxl: error: libxl_domain.c:1183:libxl__destroy_domid: Domain 25:Non-existant domain
libxl: error: libxl_domain.c:1137:domain_destroy_callback: Domain 25:Unable to destroy guest
libxl: error: libxl_domain.c:1064:domain_destroy_cb: Domain 25:Destruction of domain failed
`;

describe('why xl failed', () => {
  test('begins with the cause, not with what was cleaned up after it', () => {
    expect(firstCause(NO_MEMORY)).toBe(
      'Failed to populate physmap (12 = Cannot allocate memory): Internal error; ' +
        'Restore failed (12 = Cannot allocate memory): Internal error; ' +
        'Domain 25:Destruction of domain failed',
    );
  });

  test('is a single error only once, and lines without one unchanged', () => {
    expect(firstCause('x\nfailed to free memory for the domain\n')).toBe(
      'failed to free memory for the domain',
    );
    expect(firstCause('something\nelse\n')).toBe('something; else');
    expect(firstCause('\n')).toBe('it printed nothing');
  });

  test.each([
    [
      'libxl: error: libxl_dm.c:2850:device_model_spawn_outcome: Domain 9:domain 9 device model: spawn failed',
      true,
    ],
    [NO_MEMORY, false],
  ])('is of the device model or not', (words, expected) => {
    expect(isOfDeviceModel(words)).toBe(expected);
  });
});

describe('the log of a QEMU', () => {
  test('yields its last line that is not empty', async () => {
    await using logs = await tempDir();
    const path = join(logs.path, 'qemu-dm-web1.log');
    writeFileSync(path, `${'x\n'.repeat(20000)}qemu: -vnc 0.0.0.0:3: Failed to find an available port\n\n`);
    expect(await lastOfQemuLog('web1', Date.now() - 500, logs.path)).toEqual({
      path,
      line: 'qemu: -vnc 0.0.0.0:3: Failed to find an available port',
    });
  });

  test('yields nothing if it is of an earlier QEMU, empty, or missing', async () => {
    await using logs = await tempDir();
    const path = join(logs.path, 'qemu-dm-web1.log');
    expect(await lastOfQemuLog('web1', 0, logs.path)).toBeUndefined();
    writeFileSync(path, '\n');
    expect(await lastOfQemuLog('web1', 0, logs.path)).toBeUndefined();
    writeFileSync(path, 'old\n');
    utimesSync(path, 1000, 1000);
    expect(await lastOfQemuLog('web1', Date.now(), logs.path)).toBeUndefined();
    expect(await lastOfQemuLog('../etc/passwd', 0, logs.path)).toBeUndefined();
  });
});

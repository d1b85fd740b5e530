import { mkdirSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { governorOf } from '../../../src/bench/machine.ts';
import { bytesWritten, describeDevice, findStorage } from '../../../src/bench/storage.ts';
import { numbersOf } from '../../../src/toolstack/storage/places.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-storage-'));
});
afterEach(() => {
  rmSync(directory, { recursive: true });
});

/** A directory as sysfs has it: files by their paths. */
function sysfs(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(join(directory, path, '..'), { recursive: true });
    writeFileSync(join(directory, path), text);
  }
}

test('the device of a directory is found by its numbers', async () => {
  const { major, minor } = numbersOf(statSync(directory).dev);
  mkdirSync(join(directory, 'sda1'));
  symlinkSync('sda1', join(directory, `${major}:${minor}`));
  const { fileSystem, device } = await findStorage(directory, directory);
  expect(fileSystem).toMatch(/^[a-z]\w*$/);
  expect(device).toBe(join(directory, 'sda1'));
  rmSync(join(directory, `${major}:${minor}`));
  expect((await findStorage(directory, join(directory, 'none'))).device).toBeUndefined();
});

test('a partition has the model of its disk, a mapped device those below it, a virtual disk its name', async () => {
  sysfs({
    'nvme0n1/device/model': 'Samsung SSD 980 PRO   \n',
    'nvme0n1/nvme0n1p2/partition': '2\n',
    'vda/stat': '',
    'dm-0/stat': '',
  });
  mkdirSync(join(directory, 'dm-0/slaves'));
  symlinkSync('../../nvme0n1/nvme0n1p2', join(directory, 'dm-0/slaves/nvme0n1p2'));
  const described = (path: string): Promise<string> => describeDevice(join(directory, path));
  expect(await described('nvme0n1/nvme0n1p2')).toBe('Samsung SSD 980 PRO (nvme0n1)');
  expect(await described('dm-0')).toBe('dm-0 on Samsung SSD 980 PRO (nvme0n1)');
  expect(await described('vda')).toBe('vda');
});

test('what has been written is counted in sectors of 512 bytes', async () => {
  sysfs({ 'vda/stat': '  100 5 4000 9  200 7  3000 8 0 1 2 0 0 0 0 3 4\n', 'vdb/stat': 'x' });
  expect(await bytesWritten(join(directory, 'vda'))).toBe(3000 * 512);
  expect(await bytesWritten(join(directory, 'vdb'))).toBeUndefined();
});

test('the governor is in what xenpm prints', () => {
  expect(governorOf('scaling_driver       : acpi-cpufreq\ncurrent_governor     : ondemand\n')).toBe(
    'ondemand',
  );
  expect(governorOf('[CPU0] failed to get cpufreq parameter\n')).toBeUndefined();
});

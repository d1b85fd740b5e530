import { mkdirSync, mkdtempSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, it } from 'vitest';
import { findPlace, numbersOf, parseDevice } from '../../../../src/toolstack/storage/places.ts';

const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'xlsnap-places-')));
afterAll(() => rmSync(scratch, { recursive: true }));

let devices: string;
beforeEach(() => {
  devices = mkdtempSync(join(scratch, 'dev-'));
});

const image = join(scratch, 'disk.raw');
writeFileSync(image, '');

/** What the kernel says of a loop device. */
function loop(numbers: string, facts: Readonly<Record<string, string>>): void {
  const directory = join(devices, numbers, 'loop');
  mkdirSync(directory, { recursive: true });
  for (const [name, text] of Object.entries({ offset: '0', sizelimit: '0', ...facts })) {
    writeFileSync(join(directory, name), `${text}\n`);
  }
}

const vbd = (device: string) => ({
  kind: 'vbd',
  domid: 0,
  path: '/local/domain/0/backend/vbd/5/51712',
  device,
});
const qdisk = { kind: 'qdisk', domid: 0, path: '/local/domain/0/backend/qdisk/5/51712' };

describe('what a disk lies on', () => {
  it('is the device that blkback has opened, whatever the path means by now', async () => {
    const place = await findPlace({ backend: vbd('fd:1a'), path: '/dev/vg/disk', format: 'raw' }, devices);
    expect(place).toEqual({ kind: 'device', path: '/dev/vg/disk', major: 253, minor: 26 });
  });

  it('is the file of a loop device', async () => {
    loop('7:3', { backing_file: image });
    const place = await findPlace({ backend: vbd('7:3'), path: '/some/link.raw', format: 'raw' }, devices);
    expect(place).toEqual({ kind: 'file', path: image });
  });

  it.each([
    ['a part of a file', { backing_file: image, offset: '4096' }],
    ['the beginning of a file', { backing_file: image, sizelimit: '4096' }],
    ['a file that was removed', { backing_file: `${image} (deleted)` }],
  ])('is unknown if a loop device has %s', async (_what, facts) => {
    loop('7:3', facts);
    expect(await findPlace({ backend: vbd('7:3'), path: image, format: 'raw' }, devices)).toBeUndefined();
  });

  it('is the file itself that QEMU serves, and not a link to it', async () => {
    const link = join(devices, 'link.raw');
    symlinkSync(image, link);
    expect(await findPlace({ backend: qdisk, path: link, format: 'raw' }, devices)).toEqual({
      kind: 'file',
      path: image,
    });
  });

  it.each([
    ['a qcow2 image', { backend: qdisk, path: image, format: 'qcow2' }],
    ['another domain serves it', { backend: { ...qdisk, domid: 4 }, path: image, format: 'raw' }],
    ['a backend of another kind', { backend: { ...qdisk, kind: 'tap' }, path: image, format: 'raw' }],
    ['blkback has not opened it yet', { backend: { ...qdisk, kind: 'vbd' }, path: image, format: 'raw' }],
    ['there is no such file', { backend: qdisk, path: '/nowhere/disk.raw', format: 'raw' }],
    ['the drive is empty', { backend: qdisk, path: undefined, format: undefined }],
  ])('is unknown for %s', async (_what, disk) => {
    expect(await findPlace(disk, devices)).toBeUndefined();
  });
});

it.each([
  ['fd:0', { major: 253, minor: 0 }],
  ['FD:ff', { major: 253, minor: 255 }],
  ['7', undefined],
  ['', undefined],
  [undefined, undefined],
])('physical-device %s is %o', (text, numbers) => {
  expect(parseDevice(text)).toEqual(numbers);
});

it.each([
  [0xfd00, { major: 253, minor: 0 }],
  [0xfd1a, { major: 253, minor: 26 }],
  // 253:256 and 4096:1, as glibc's makedev has them.
  [0x10fd00, { major: 253, minor: 256 }],
  [0x1000_0000_0001, { major: 4096, minor: 1 }],
])('device number %d is split as glibc does', (rdev, numbers) => {
  expect(numbersOf(rdev)).toEqual(numbers);
});

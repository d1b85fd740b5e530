import { expect, it } from 'vitest';
import { vdevToDevid } from '../../../../src/toolstack/qemu/vdev.ts';

it.each([
  // docs/man/xen-vbd-interface.7
  ['xvda', 51712],
  ['xvda1', 51713],
  ['xvda15', 51727],
  ['xvdb', 51728],
  ['xvdp', 51952],
  ['xvdp15', 51967],
  ['xvda16', (1 << 28) | 16],
  ['xvdq', (1 << 28) | (16 << 8)],
  ['xvdq1', (1 << 28) | (16 << 8) | 1],
  ['xvdz', (1 << 28) | (25 << 8)],
  ['xvdaa', (1 << 28) | (26 << 8)],
  ['xvdba', (1 << 28) | (52 << 8)],
  ['hda', 768],
  ['hda1', 769],
  ['hdb', 832],
  ['hdc', 5632],
  ['hdd63', 5759],
  ['sda', 2048],
  ['sdb', 2064],
  ['sdp15', 2303],
  ['d0p0', 51712],
  ['d16p1', (1 << 28) | (16 << 8) | 1],
  ['51712', 51712],
  ['0x300', 768],
])('%s is %i', (vdev, devid) => {
  expect(vdevToDevid(vdev)).toBe(devid);
});

it.each([
  '',
  'xvd',
  'xvda0',
  'xvda01',
  'xvda256',
  'xvdA',
  'xvda1p',
  'hde',
  'hda64',
  'sdq',
  'sda16',
  'sdaa',
  'vda',
  'nvme0n1',
  'd1',
  'd1048576p0',
  'd0p256',
  'xvdzzzzz',
  '2147483648',
  '0x',
  '-1',
  ' xvda',
  'xvda\n',
  '51712x',
  '010',
])('%j is not a virtual disk', (vdev) => {
  expect(vdevToDevid(vdev)).toBeUndefined();
});

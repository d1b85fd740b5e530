import { expect, test } from 'vitest';
import { guestPrefix, guestSuffix } from '../../../../src/snapshot/memory/prefix-suffix.ts';
import { FakeGuest } from '../../../../src/testing/fake-guest.ts';

const XEN = { major: 4, minor: 20, extra: '' };

/** Returns types and lengths of the records from `at` on: libxc's to END, then libxl's to END. */
function recordTypes(bytes: Uint8Array, at = 0): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const types: number[] = [];
  while (at < bytes.length) {
    types.push(view.getUint32(at, true));
    at += 8 + Math.ceil(view.getUint32(at + 4, true) / 8) * 8;
  }
  expect(at).toBe(bytes.length);
  return types;
}

/**
 * Returns the records after libxc's domain header, which is found by a byte pattern, not a parser: 0xff * 8,
 * "XENF".
 */
function afterLibxcHeaders(prefix: Uint8Array): number {
  const marker = Buffer.from('ffffffffffffffff58454e46', 'hex');
  const at = Buffer.from(prefix.buffer, prefix.byteOffset, prefix.byteLength).indexOf(marker);
  expect(at).toBeGreaterThan(0);
  return at + 24 + 16;
}

test('the prefix ends at a page boundary with the CPU policy and STATIC_DATA_END', async () => {
  const prefix = await guestPrefix(new FakeGuest(new Uint8Array(0)), '{"c_info":{}}', XEN);
  expect(prefix.length % 4096).toBe(0);
  expect(recordTypes(prefix, afterLibxcHeaders(prefix))).toEqual([0x11, 0x12, 0x10]);
});

test('a PV guest has its info before STATIC_DATA_END, and its p2m frames after it', async () => {
  const guest = new FakeGuest(new Uint8Array(1000));
  guest.streamType = 'pv';
  const prefix = await guestPrefix(guest, '{}', XEN);
  expect(prefix.length % 4096).toBe(0);
  expect(recordTypes(prefix, afterLibxcHeaders(prefix))).toEqual([0x2, 0x11, 0x12, 0x10, 0x3]);
  expect(recordTypes(await guestSuffix(guest))).toEqual([8, 7, 4, 0, 0]);
});

test('a PVH guest ends with TSC, context, parameters and both ENDs', async () => {
  const guest = new FakeGuest(new Uint8Array(0));
  expect(recordTypes(await guestSuffix(guest))).toEqual([8, 9, 10, 0, 0]);
});

test("an HVM guest's emulator follows libxc's END", async () => {
  const guest = new FakeGuest(new Uint8Array(0));
  const context = Uint8Array.of(7, 7, 7);
  const text = new TextEncoder().encode('a\0b\0');
  expect(recordTypes(await guestSuffix(guest, { xenstoreData: text, context }))).toEqual([
    8, 9, 10, 0, 2, 3, 0,
  ]);
  const none = new Uint8Array(0);
  expect(recordTypes(await guestSuffix(guest, { xenstoreData: none, context }))).toEqual([8, 9, 10, 0, 3, 0]);
});

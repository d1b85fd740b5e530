/** What the tests of tracked guests share. */
import { rmSync } from 'node:fs';
import { expect } from 'vitest';
import { compareFiles } from '../../src/memfile/compare.ts';
import { verifyFile } from '../../src/memfile/verify.ts';
import type { FakeGuest } from '../../src/testing/fake-guest.ts';
import { writeSlots } from './whole-file.ts';

/** Checks that a memory file is sound, agrees with its checksums, and has exactly the guest's memory as it is now. */
export async function expectMemory(path: string, guest: FakeGuest, where = ''): Promise<void> {
  await verifyFile(path);
  const reference = `${path}.reference`;
  await writeSlots(guest, reference);
  try {
    const { total } = await compareFiles(path, reference);
    expect({ ...total, same: 0 }, where).toEqual({ same: 0, changed: 0, onlyA: 0, onlyB: 0 });
    expect(total.same, where).toBeGreaterThan(0);
  } finally {
    rmSync(reference);
  }
}

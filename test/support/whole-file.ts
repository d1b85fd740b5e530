/** Whole save files of a made-up guest, as a create would write them. */
import { writeFile } from 'node:fs/promises';
import { FileSaver } from '../../src/snapshot/memory/file-saver.ts';
import { guestPrefix, guestSuffix } from '../../src/snapshot/memory/prefix-suffix.ts';
import { StreamSaver } from '../../src/snapshot/memory/stream-saver.ts';
import { OutputFile } from '../../src/snapshot/output/file.ts';
import type { FakeGuest } from '../../src/testing/fake-guest.ts';
import { configJson } from './naive-stream.ts';

const XEN = { major: 4, minor: 20, extra: '' };
const PAGE = 4096;

/** Saves a suspended guest to a file, in slots. */
export async function writeSlots(guest: FakeGuest, path: string): Promise<void> {
  const file = await OutputFile.create(path);
  const prefix = await guestPrefix(guest, configJson, XEN);
  await file.writeAt(prefix, 0);
  const saver = new FileSaver(guest, file, prefix.length, { expectedPages: guest.memoryBytes / PAGE });
  await saver.copyAll();
  const { end } = await saver.finish();
  await file.writeAt(await guestSuffix(guest), end);
  await saver.writeKept();
  await file.commit({ sync: false });
}

/** Saves it as a stream. */
export async function writeStream(guest: FakeGuest, path: string): Promise<void> {
  const parts = [await guestPrefix(guest, configJson, XEN)];
  const writeAt = async (bytes: Uint8Array): Promise<void> => {
    parts.push(bytes.slice());
  };
  const saver = new StreamSaver(guest, { writeAt }, parts[0]?.length ?? 0, {
    expectedPages: guest.memoryBytes / PAGE,
  });
  await saver.copyAll();
  await saver.finish();
  await writeFile(path, Buffer.concat([...parts, await guestSuffix(guest)]));
}

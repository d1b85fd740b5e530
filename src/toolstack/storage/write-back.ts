/**
 * Writes back to a volume what a thick snapshot of it has kept: only those chunks that were overwritten since. It may be done any
 * number of times, and ended anywhere: a chunk that is written back has its copy in the store already.
 *
 * The store says which chunks these are (drivers/md/dm-snap-persistent.c): in chunk 0 a header of four little-endian words, magic,
 * valid, version, chunk size in sectors; then areas of one chunk, each followed by the chunks that it describes; in an area pairs of
 * 64-bit words, number of the chunk in the volume and in the store, until the latter is 0. A store that looks otherwise is not
 * trusted: then all of both is compared.
 */
import { type FileHandle, open } from 'node:fs/promises';
import { DiskError } from '../../core/errors.ts';

const MAGIC = 0x70416e53;
const VERSION = 1;
const SECTOR = 512;
const ENTRY = 16;
/** Compared at once, and written if it differs; bytes. */
const PIECE = 2 ** 20;
const BLOCK = 4096;

/** The chunks of the volume that a store has. */
interface ChunkTable {
  readonly chunkBytes: number;
  readonly chunks: readonly number[];
}

/** What was done. */
export interface WrittenBack {
  /** How what differs was found. */
  readonly by: 'table' | 'comparison';
  /** Bytes written. */
  readonly bytes: number;
}

/**
 * Makes a volume equal to a snapshot of it, and waits until that is on the disk. Paths of devices, whose caches have been dropped.
 * @param store the device of the snapshot's store
 * @param size of the volume, in bytes
 * @throws {DiskError} If a device cannot be read or written
 */
export async function writeBack(
  snapshot: string,
  store: string,
  origin: string,
  size: number,
): Promise<WrittenBack> {
  try {
    await using from = await open(snapshot, 'r');
    // Not created if there is no such device: that would be a file in /dev.
    await using to = await open(origin, 'r+');
    const table = await readTable(store);
    const bytes =
      table === undefined ? await copyDifferences(from, to, size) : await copyChunks(from, to, size, table);
    await to.sync();
    return { by: table === undefined ? 'comparison' : 'table', bytes };
  } catch (cause) {
    throw new DiskError('WRITE_BACK', `cannot write ${snapshot} back to ${origin}`, { cause });
  }
}

/** Reads which chunks a store holds; `undefined` if it does not look as expected. */
export async function readTable(store: string): Promise<ChunkTable | undefined> {
  await using file = await open(store, 'r');
  const header = await readAt(file, 0, SECTOR);
  const [magic, valid, version, sectors] = [0, 4, 8, 12].map((at) => header.readUInt32LE(at));
  if (magic !== MAGIC || valid !== 1 || version !== VERSION || sectors === undefined) return undefined;
  const chunkBytes = sectors * SECTOR;
  // A power of two, from a page to 512 KiB (lvcreate(8)).
  if (chunkBytes < 4096 || chunkBytes > 512 * 1024 || (chunkBytes & (chunkBytes - 1)) !== 0) return undefined;
  const perArea = chunkBytes / ENTRY;
  const chunks: number[] = [];
  for (let area = 0; ; area++) {
    const at = (1 + area * (perArea + 1)) * chunkBytes;
    const entries = await readAt(file, at, chunkBytes);
    for (let entry = 0; entry < perArea; entry++) {
      if (entries.readBigUInt64LE(entry * ENTRY + 8) === 0n) return { chunkBytes, chunks };
      chunks.push(Number(entries.readBigUInt64LE(entry * ENTRY)));
    }
  }
}

async function copyChunks(
  from: FileHandle,
  to: FileHandle,
  size: number,
  { chunks, chunkBytes }: ChunkTable,
): Promise<number> {
  let bytes = 0;
  for (const chunk of [...chunks].sort((a, b) => a - b)) {
    const at = chunk * chunkBytes;
    const length = Math.min(chunkBytes, size - at);
    if (length <= 0) throw new Error(`chunk ${chunk} is behind the end of the volume`);
    await writeAt(to, at, await readAt(from, at, length));
    bytes += length;
  }
  return bytes;
}

async function copyDifferences(from: FileHandle, to: FileHandle, size: number): Promise<number> {
  let bytes = 0;
  for (let at = 0; at < size; at += PIECE) {
    const length = Math.min(PIECE, size - at);
    const [wanted, there] = [await readAt(from, at, length), await readAt(to, at, length)];
    if (wanted.equals(there)) continue;
    for (let block = 0; block < length; block += BLOCK) {
      const part = wanted.subarray(block, block + BLOCK);
      if (part.equals(there.subarray(block, block + BLOCK))) continue;
      await writeAt(to, at + block, part);
      bytes += part.length;
    }
  }
  return bytes;
}

async function readAt(file: FileHandle, at: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(buffer, done, length - done, at + done);
    if (bytesRead === 0) throw new Error(`it ends at byte ${at + done}`);
    done += bytesRead;
  }
  return buffer;
}

async function writeAt(file: FileHandle, at: number, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, bytes.length - done, at + done)).bytesWritten;
  }
}

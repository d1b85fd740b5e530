/** Warms the page cache before a run. */
import { open, readFile, rm } from 'node:fs/promises';

const CHUNK = 4 * 1024 * 1024;
/** A save may write more than the guest's memory. */
const MARGIN = 1.5;

/**
 * Writes a file of 1.5 times the guest's size and removes it, so that the next file's page cache does not need fresh
 * memory: in a virtual machine that comes from the host below and can cost more than the whole save.
 */
export async function warmPageCache(path: string, guestBytes: number, signal?: AbortSignal): Promise<void> {
  const bytes = Math.min(guestBytes * MARGIN, (await availableBytes()) / 2);
  const chunk = new Uint8Array(CHUNK).fill(1);
  try {
    await using file = await open(path, 'wx', 0o600);
    for (let at = 0; at < bytes && signal?.aborted !== true; at += CHUNK) await file.write(chunk);
  } finally {
    await rm(path, { force: true });
  }
}

/** The memory available to programs and the page cache, in bytes. */
async function availableBytes(): Promise<number> {
  const [, kib] = /^MemAvailable:\s+(\d+) kB$/m.exec(await readFile('/proc/meminfo', 'utf8')) ?? [];
  return Number(kib ?? 0) * 1024;
}

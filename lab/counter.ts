/** Parses what guest/counter.c writes: console lines, disk sectors, the page in its memory. */

/** A TICK line. Everything of tick `n` was done when it was printed. */
export interface Tick {
  readonly n: number;
  readonly disks: number;
  /** Number of MISMATCH lines since the program started. */
  readonly bad: number;
  /** Seconds by the guest's monotonic clock. */
  readonly up: number;
  /** Seconds since 1970 by the guest's clock. */
  readonly clock: number;
  /** Maximum time between two ticks since the previous line, by the monotonic and by the real-time clock. */
  readonly gapMs: number;
  readonly gapRealMs: number;
}

/** The first line that a counter program prints. */
export interface GuestUp {
  readonly type: string;
  /** The number it starts from: that of its disks, or 0. */
  readonly counter: number;
  readonly boot: string;
  /** Device to the number found on it; undefined for a blank disk. */
  readonly disks: ReadonlyMap<string, number | undefined>;
}

export interface ConsoleReport {
  readonly up: readonly GuestUp[];
  readonly ticks: readonly Tick[];
  /** MISMATCH, DIRTY-MISMATCH, DISK-ERROR and COUNTER-FAILED lines. */
  readonly complaints: readonly string[];
}

const tickLine =
  /^TICK n=(\d+) disks=(\d+) bad=(\d+) up=([\d.]+) clk=([\d.]+) gap_ms=([-\d.]+) gap_real_ms=([-\d.]+)$/;
const upLine = /^GUEST-UP type=(\S*) counter=(\d+) boot=([0-9a-f]{32}) disks=(\S+)/;

export function parseConsole(text: string): ConsoleReport {
  const up: GuestUp[] = [];
  const ticks: Tick[] = [];
  const complaints: string[] = [];
  for (const raw of text.split('\n')) {
    const line = raw.replaceAll('\r', '');
    const tick = tickLine.exec(line);
    if (tick !== null) {
      const [n = 0, disks = 0, bad = 0, upS = 0, clock = 0, gapMs = 0, gapRealMs = 0] = tick
        .slice(1)
        .map(Number);
      ticks.push({ n, disks, bad, up: upS, clock, gapMs, gapRealMs });
      continue;
    }
    const first = upLine.exec(line);
    if (first !== null) {
      const [, type = '', counter = '0', boot = '', list = ''] = first;
      const disks = new Map<string, number | undefined>();
      for (const item of list === 'none' ? [] : list.split(',')) {
        const [vdev = '', number = ''] = item.split(':');
        disks.set(vdev, number === 'blank' ? undefined : Number(number));
      }
      up.push({ type, counter: Number(counter), boot, disks });
    } else if (/^(MISMATCH|DIRTY-MISMATCH|DISK-ERROR|COUNTER-FAILED|DIRTY-FAILED) /.test(line)) {
      complaints.push(line);
    }
  }
  return { up, ticks, complaints };
}

export const sectorSize = 512;
/** Number of slot sectors after the head sector: number n is also in sector 1 + n % 64. */
export const slotCount = 64;
/** Number of bytes of a disk that decodeDisk needs. */
export const diskSpan = (1 + slotCount) * sectorSize;

export interface Sector {
  /** Letter of the device: `a` for xvda. */
  readonly letter: string;
  readonly boot: string;
  readonly number: number;
  readonly realNs: bigint;
  readonly index: number;
}

/** Decodes a sector; undefined if the counter did not write it, or it is torn. */
export function decodeSector(bytes: Uint8Array, offset = 0): Sector | undefined {
  if (bytes.length < offset + sectorSize || text(bytes, offset, 8) !== 'XLSNAPSC') return undefined;
  const view = viewOf(bytes);
  if (view.getBigUint64(offset + 504, true) !== fnv(bytes, offset, 504)) return undefined;
  return {
    letter: String.fromCharCode(97 + view.getUint32(offset + 12, true)),
    boot: hex(bytes, offset + 16, 16),
    number: Number(view.getBigUint64(offset + 32, true)),
    realNs: view.getBigUint64(offset + 40, true),
    index: Number(view.getBigUint64(offset + 48, true)),
  };
}

export interface DiskReport {
  readonly head: Sector;
  /**
   * Slots without the number that they should have (during a tick: or the one before). Empty if nothing was
   * lost.
   */
  readonly problems: readonly string[];
}

/**
 * Decodes the counter's part of a disk (its first 65 sectors); undefined if the head sector is blank or
 * damaged.
 */
export function decodeDisk(bytes: Uint8Array): DiskReport | undefined {
  const head = decodeSector(bytes);
  if (head === undefined) return undefined;
  const slots: (Sector | undefined)[] = [];
  for (let index = 1; index <= slotCount; index++) slots[index] = decodeSector(bytes, index * sectorSize);
  const problems: string[] = [];
  if (head.index !== 0) problems.push(`the head sector was written for sector ${head.index}`);
  // A life that was killed during a tick may have left out its last slot: only this life's numbers are
  // certain.
  const own = slots.filter((slot) => slot?.boot === head.boot).map((slot) => slot?.number ?? 0);
  for (const slot of slots) {
    // The head is written first, so a slot that is ahead of it comes from a later instant.
    if (slot?.boot === head.boot && slot.number > head.number) {
      problems.push(`sector ${slot.index} holds ${slot.number}, the head sector only ${head.number}`);
    }
  }
  const first = Math.max(Math.min(head.number, ...own), head.number - slotCount + 1);
  for (let number = first; number <= head.number; number++) {
    const index = 1 + (number % slotCount);
    const slot = slots[index];
    // The head is written before the slot: in a snapshot the last slot may still have its earlier content.
    if (number === head.number && (slot === undefined || slot.number <= number - slotCount)) continue;
    if (slot?.number !== number || slot.index !== index) {
      problems.push(`sector ${index} should hold ${number}, holds ${slot?.number ?? 'nothing'}`);
    }
  }
  return { head, problems };
}

/** The counter in the guest's memory. For each disk: done <= number in its head sector <= started. */
export interface MemoryCounter {
  readonly boot: string;
  readonly started: number;
  readonly done: number;
  readonly monotonicNs: bigint;
  readonly realNs: bigint;
  readonly disks: number;
}

/** Decodes a page; undefined if it is not the counter's. */
export function decodePage(bytes: Uint8Array, offset = 0): MemoryCounter | undefined {
  if (bytes.length < offset + 192 || text(bytes, offset, 8) !== 'XLSNAPCT') return undefined;
  const view = viewOf(bytes);
  let best: { seq: bigint; counter: MemoryCounter } | undefined;
  for (const at of [offset + 64, offset + 128]) {
    if (view.getBigUint64(at + 56, true) !== fnv(bytes, at, 56)) continue;
    const seq = view.getBigUint64(at, true);
    if (best !== undefined && best.seq > seq) continue;
    const counter = {
      boot: hex(bytes, offset + 16, 16),
      started: Number(view.getBigUint64(at + 8, true)),
      done: Number(view.getBigUint64(at + 16, true)),
      monotonicNs: view.getBigUint64(at + 24, true),
      realNs: view.getBigUint64(at + 32, true),
      disks: view.getUint32(at + 40, true),
    };
    best = { seq, counter };
  }
  return best?.counter;
}

/**
 * Finds the counter's pages in guest memory, or in a file that has pages at any offset (a save file). A file
 * written in several rounds may have the page several times: the last one is the guest's.
 */
export function findPages(bytes: Uint8Array): MemoryCounter[] {
  const found: MemoryCounter[] = [];
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = buffer.indexOf('XLSNAPCT'); at !== -1; at = buffer.indexOf('XLSNAPCT', at + 8)) {
    const counter = decodePage(bytes, at);
    if (counter !== undefined) found.push(counter);
  }
  return found;
}

export interface DirtyPage {
  readonly index: number;
  readonly generation: number;
  readonly boot: string;
}

/** Decodes a page of the `dirty.mib` process; undefined if it is not one, or is half written. */
export function decodeDirtyPage(bytes: Uint8Array, offset = 0): DirtyPage | undefined {
  if (bytes.length < offset + 4096 || text(bytes, offset, 8) !== 'XLSNAPDP') return undefined;
  const view = viewOf(bytes);
  let sum = 0xcbf29ce484222325n;
  for (let at = 0; at < 4088; at += 8) {
    sum = BigInt.asUintN(64, (sum ^ view.getBigUint64(offset + at, true)) * 0x100000001b3n);
  }
  if (sum !== view.getBigUint64(offset + 4088, true)) return undefined;
  return {
    index: view.getUint32(offset + 12, true),
    generation: Number(view.getBigUint64(offset + 32, true)),
    boot: hex(bytes, offset + 16, 16),
  };
}

/** Computes FNV-1a with 64 bits. */
function fnv(bytes: Uint8Array, start: number, length: number): bigint {
  let hash = 0xcbf29ce484222325n;
  for (let i = start; i < start + length; i++) {
    hash = BigInt.asUintN(64, (hash ^ BigInt(bytes[i] ?? 0)) * 0x100000001b3n);
  }
  return hash;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function text(bytes: Uint8Array, start: number, length: number): string {
  return String.fromCharCode(...bytes.subarray(start, start + length));
}

function hex(bytes: Uint8Array, start: number, length: number): string {
  return Buffer.from(bytes.subarray(start, start + length)).toString('hex');
}

/** Inspects, compares and verifies save files, with what this machine's libraries have to offer. Needs no Xen. */
import type { CallOptions } from '../core/call-options.ts';
import { type CompareOptions, type Comparison, compareFiles } from '../memfile/compare.ts';
import { type Inspection, type InspectOptions, inspectFile } from '../memfile/inspect.ts';
import { type MemoryReport, verifyFile } from '../memfile/verify.ts';
import { fileExtents } from '../xenctrl/extents.ts';
import { NativeXxh3 } from '../xenctrl/xxh3.ts';

/**
 * Reads what a save file, of xl or xlsnap, contains: header, configuration, records, memory map, and the
 * manifest beside it. Works on any machine. Damage is not an error: see `sound` and `findings`.
 * @throws {MemoryFileError} If the file cannot be opened.
 * @throws {InterruptedError} If the signal aborted.
 */
export function inspectMemoryFile(
  path: string,
  options: Omit<InspectOptions, 'extents'> = {},
): Promise<Inspection> {
  return inspectFile(path, { ...options, extents: fileExtents });
}

/**
 * Compares the guest's memory in two save files, of xl or xlsnap, page by page.
 * @throws {MemoryFileError} If a file cannot be opened or is damaged.
 * @throws {InterruptedError} If the signal aborted.
 */
export function compareMemoryFiles(
  pathA: string,
  pathB: string,
  options: Omit<CompareOptions, 'extents'> = {},
): Promise<Comparison> {
  return compareFiles(pathA, pathB, { ...options, extents: fileExtents });
}

/**
 * Checks a save file, of xl or xlsnap, from its header to its last byte, and against the manifest beside it,
 * if there is one. Works on any machine.
 * @throws {MemoryFileError} If a restore would refuse the file or make an incomplete guest of it, or the file
 * is not what was written. It has all findings, each with its offset.
 * @throws {ManifestError} If the manifest is not valid.
 * @throws {InterruptedError} If the signal aborted.
 */
export function verifyMemoryFile(path: string, options: CallOptions = {}): Promise<MemoryReport> {
  // Where nothing native can be called, WebAssembly does it.
  return verifyFile(path, { ...options, xxh3: () => NativeXxh3.make().catch(() => undefined) });
}

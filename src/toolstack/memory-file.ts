/** Inspects and compares save files, with the holes that the file system reports. Needs no Xen. */
import { type CompareOptions, type Comparison, compareFiles } from '../memfile/compare.ts';
import { type Inspection, type InspectOptions, inspectFile } from '../memfile/inspect.ts';
import { fileExtents } from '../xenctrl/extents.ts';

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

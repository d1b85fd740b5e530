/** Looking into save files, with what the file system tells of their holes. Needs no Xen. */
import { type CompareOptions, type Comparison, compareFiles } from '../memfile/compare.ts';
import { type Inspection, type InspectOptions, inspectFile } from '../memfile/inspect.ts';
import { fileExtents } from '../xenctrl/extents.ts';

/**
 * Tells what a save file, xl's or ours, holds: header, configuration, records, memory map, and the manifest beside it.
 * Works on any machine. Damage does not make it fail: see `sound` and `findings`.
 * @throws MemoryFileError when the file cannot be opened, InterruptedError
 */
export function inspectMemoryFile(
  path: string,
  options: Omit<InspectOptions, 'extents'> = {},
): Promise<Inspection> {
  return inspectFile(path, { ...options, extents: fileExtents });
}

/**
 * Compares the guest's memory in two save files, xl's or ours, page by page.
 * @throws MemoryFileError when a file cannot be opened or is damaged, InterruptedError
 */
export function compareMemoryFiles(
  pathA: string,
  pathB: string,
  options: Omit<CompareOptions, 'extents'> = {},
): Promise<Comparison> {
  return compareFiles(pathA, pathB, { ...options, extents: fileExtents });
}

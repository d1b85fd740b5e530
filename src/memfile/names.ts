/** The names of the files beside a memory file, and of a file that is not complete. */

/** Returns the path of the cfgfile that belongs to a memory file. */
export function configPathOf(memoryPath: string): string {
  return `${memoryPath}.cfg`;
}

/** Returns the path of the manifest that belongs to a memory file. */
export function manifestPathOf(memoryPath: string): string {
  return `${memoryPath}.json`;
}

/** Returns the name of a file while it is being written. */
export function partialOf(path: string): string {
  return `${path}.partial`;
}

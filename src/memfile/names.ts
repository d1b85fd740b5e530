/** The names of the files beside a memory file. */

/** Returns the path of the cfgfile that belongs to a memory file. */
export function configPathOf(memoryPath: string): string {
  return `${memoryPath}.cfg`;
}

/** Returns the path of the manifest that belongs to a memory file. */
export function manifestPathOf(memoryPath: string): string {
  return `${memoryPath}.json`;
}

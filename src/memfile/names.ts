/** The files beside a memory file. */

/** The cfgfile that belongs to a memory file. */
export function configPathOf(memoryPath: string): string {
  return `${memoryPath}.cfg`;
}

/** The manifest that belongs to a memory file. */
export function manifestPathOf(memoryPath: string): string {
  return `${memoryPath}.json`;
}

/** The names of what a revert keeps or makes beside the disks, by its mark. */

/** Returns the name of a revert's safety tags. */
export function safetyTag(mark: string): string {
  return `xlsnap-before-${mark}`;
}

/** Returns the path that the replaced overlay is moved to. */
export function asidePath(overlay: string, mark: string): string {
  return `${overlay}.before-${mark}`;
}

/** Returns the path at which the new overlay is created. */
export function freshPath(overlay: string, mark: string): string {
  return `${overlay}.fresh-${mark}`;
}

/** What tracking needs of file systems. */

/** Clones memory files; implemented by the toolstack. */
export interface MemoryClones {
  /**
   * Tells why a file in that directory cannot be cloned to another one there. Leaves nothing behind.
   * @returns undefined if it can
   */
  obstacle(directory: string): Promise<string | undefined>;
  /**
   * Gives `to`, an empty file, the content of `from`: it shares its blocks.
   * @throws {OutputError} If it cannot, or copying all memory would take less time (`CLONE`); then it is still empty
   */
  clone(from: string, to: string): Promise<void>;
}

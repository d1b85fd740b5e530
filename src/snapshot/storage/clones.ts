/** The port of a file system that can clone files: copies that share their blocks until one of them is written to. */

/** A file by its path, and what no other file has. */
export interface KnownFile {
  readonly path: string;
  readonly inode?: number | undefined;
}

export interface Clones {
  /**
   * Finds out whether an image can be cloned into a directory, by doing so without leaving anything.
   * @returns why not, as a clause: `the file system of /srv has no reflinks`; `undefined` if it can
   */
  obstacle(image: string, directory: string): Promise<string | undefined>;
  /** Writes what is cached of a file to its disk: then cloning it is quick. */
  flush(path: string): Promise<void>;
  /**
   * Makes a file a clone of another, whatever is cached of that. Never copies, and never writes to another file than it was given.
   * @param from its inode number is compared if it is given
   * @param to an empty file
   * @throws {DiskError} If it cannot be cloned, or another file has taken the place of one of them
   */
  clone(from: KnownFile, to: KnownFile): Promise<void>;
  /**
   * Gives a file the owner, mode, ACL and extended attributes of another.
   * @throws {DiskError} If that is not possible
   */
  copyAttributes(from: string, to: string): Promise<void>;
}

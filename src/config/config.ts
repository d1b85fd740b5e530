/** The content of a cfgfile. Every key is optional. */
export interface SnapshotConfig {
  /** Tag of the disk snapshots and base of the memory file's name; never empty. */
  readonly name?: string | undefined;
  readonly description?: string | undefined;
  /** Absolute path of the memory file. */
  readonly memoryPath?: string | undefined;
  /** Present, even when empty, if the cfgfile has a `disks` key. */
  readonly disks?: readonly DiskRequest[] | undefined;
  /** The file it came from, for messages. */
  readonly source?: string | undefined;
}

/** One entry of `disks`. */
export type DiskRequest =
  | {
      readonly kind: 'internal';
      readonly target: string;
      /** Room for what the guest overwrites, if the disk is a thick volume of LVM. */
      readonly cow?: StoreSize | undefined;
    }
  | { readonly kind: 'external'; readonly target: string; readonly path: string; readonly format: string }
  /** A clone of a raw image, at that path. */
  | { readonly kind: 'clone'; readonly target: string; readonly path: string; readonly format: 'raw' };

/** A size: in bytes, a multiple of 1024; or in per cent of the disk's. */
export type StoreSize = { readonly bytes: number } | { readonly percent: number };

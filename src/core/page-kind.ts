/** What has to be written for a guest page. */
export const PAGE_KIND = {
  /** Its content. */
  data: 0,
  /** Only zeros: nothing, where the file has a hole. */
  zero: 1,
  /** It cannot be mapped: the guest has no such page (any more). */
  unmapped: 2,
} as const;

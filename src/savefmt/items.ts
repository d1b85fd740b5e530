import type { DomainHeader, ImageHeader, LibxcRecord } from './libxc.ts';
import type { LibxlHeader, LibxlRecord } from './libxl.ts';
import type { XlHeader } from './xl-header.ts';

/** The outermost format of a stream: a file of xl, a bare libxl stream, a bare libxc stream. */
export type StreamFormat = 'xl' | 'libxl' | 'libxc';

/**
 * A save file is a sequence of items; the reader gives them and the writer takes them. An item has all that is
 * needed to write the bytes that were read.
 */
export type StreamItem =
  | { readonly kind: 'xl-header'; readonly header: XlHeader }
  | { readonly kind: 'libxl-header'; readonly header: LibxlHeader }
  | { readonly kind: 'libxl-record'; readonly record: LibxlRecord; readonly padding?: Uint8Array }
  | { readonly kind: 'libxc-headers'; readonly image: ImageHeader; readonly domain: DomainHeader }
  | {
      readonly kind: 'libxc-record';
      readonly record: LibxcRecord;
      /** The bytes behind the body, when they are not the zeros that they should be. */
      readonly padding?: Uint8Array;
    };

/** An item and where it stands. */
export type LocatedItem = StreamItem & {
  /** Bytes from where the reading began. */
  readonly offset: number;
};

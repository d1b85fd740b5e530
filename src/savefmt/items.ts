/** The items of a save file, as the reader yields them and the writer takes them. */
import type { DomainHeader, ImageHeader, LibxcRecord } from './libxc.ts';
import type { LibxlHeader, LibxlRecord } from './libxl.ts';
import type { XlHeader } from './xl-header.ts';

/** The outermost format of a stream: a save file of xl, a bare libxl stream, or a bare libxc stream. */
export type StreamFormat = 'xl' | 'libxl' | 'libxc';

/** One item of a save file. It has all that is needed to write back the same bytes. */
export type StreamItem =
  | { readonly kind: 'xl-header'; readonly header: XlHeader }
  | { readonly kind: 'libxl-header'; readonly header: LibxlHeader }
  | { readonly kind: 'libxl-record'; readonly record: LibxlRecord; readonly padding?: Uint8Array }
  | { readonly kind: 'libxc-headers'; readonly image: ImageHeader; readonly domain: DomainHeader }
  | {
      readonly kind: 'libxc-record';
      readonly record: LibxcRecord;
      /** The bytes after the body, if they are not the zeros that they should be. */
      readonly padding?: Uint8Array;
    };

/** An item and its offset. */
export type LocatedItem = StreamItem & {
  /** In bytes from where reading began. */
  readonly offset: number;
};

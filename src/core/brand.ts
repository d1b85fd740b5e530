/** Branded numbers: values that have been proven to be what their name says. */

declare const brand: unique symbol;

/** A number that has been proven to be a `Name`. */
export type Brand<Name extends string> = number & { readonly [brand]: Name };

/** A Xen domain id, 0 … 0x7fef (xen/include/public/xen.h: DOMID_FIRST_RESERVED is 0x7ff0). */
export type Domid = Brand<'domid'>;

/** Bytes in a page of guest memory (XC_PAGE_SIZE, page shift 12). */
export const PAGE_SIZE = 4096;

/** The first reserved domid (xen/include/public/xen.h). */
export const DOMID_FIRST_RESERVED = 0x7ff0;

/**
 * @throws {RangeError} If `value` is not the domid of a guest or dom0
 */
export function toDomid(value: number): Domid {
  if (!Number.isInteger(value) || value < 0 || value >= DOMID_FIRST_RESERVED) {
    throw new RangeError(`not a domid: ${value}`);
  }
  return value as Domid;
}

/**
 * Converts a 64-bit word to a number.
 * @throws {RangeError} If it is negative or above 2^53 - 1.
 */
export function toSafeNumber(value: bigint, what: string): number {
  if (value < 0n || value > BigInt(Number.MAX_SAFE_INTEGER)) {
    throw new RangeError(`${what} is out of range: ${value}`);
  }
  return Number(value);
}

/** Allocates memory for hypercalls. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { XENCTRL } from './declarations.ts';
import { XenCallError } from './errors.ts';
import type { NativeFunction } from './native.ts';

/** Memory that Xen can write to during a call. */
export interface HypercallBuffer {
  /** The xc_hypercall_buffer_t. */
  readonly struct: BigUint64Array;
  readonly address: number | bigint;
}

type BufferFunctions = Readonly<
  Record<
    Extract<
      keyof (typeof XENCTRL)['functions'],
      'xc__hypercall_buffer_alloc_pages' | 'xc__hypercall_buffer_free_pages'
    >,
    NativeFunction
  >
>;

/**
 * Runs `use` with a buffer of at least the given size, and frees the buffer when its promise is settled.
 * @throws {XenCallError} If there is no memory.
 */
export async function withHypercallBuffer<T>(
  ctrl: BufferFunctions,
  xch: bigint,
  structSize: number,
  bytes: number,
  use: (buffer: HypercallBuffer) => Promise<T>,
): Promise<T> {
  const pages = Math.max(1, Math.ceil(bytes / PAGE_SIZE));
  const struct = new BigUint64Array(structSize / 8);
  const { value, errno } = ctrl.xc__hypercall_buffer_alloc_pages.callHere(xch, struct, pages);
  if (value === 0n) throw new XenCallError('xc__hypercall_buffer_alloc_pages', errno);
  try {
    return await use({ struct, address: value });
  } finally {
    ctrl.xc__hypercall_buffer_free_pages.callHere(xch, struct, pages);
  }
}

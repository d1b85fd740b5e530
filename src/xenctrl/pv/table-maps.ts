/** Maps the tables of a PV domain for as long as they are needed. */
import { type Domid, PAGE_SIZE } from '../../core/brand.ts';
import type { FOREIGNMEMORY, XENGUEST } from '../declarations.ts';
import { XenCallError } from '../errors.ts';
import type { loadKoffi, NativeFunction } from '../native.ts';
import { toWords } from '../words.ts';
import { badGuest, hexFrame } from './errors.ts';
import { FrameTable } from './frame-table.ts';

/** PROT_READ (sys/mman.h). */
const PROT_READ = 1;
/** libxenguest maps the m2p in whole chunks of 2 MiB. */
const M2P_CHUNK = 2 * 1024 * 1024;
const M2P_ENTRY = 8;
/** Entries in one view: 256 MiB, the size that any JavaScript engine supports. */
const M2P_PER_PIECE = 2 ** 25;

/** Memory that stays mapped until it is closed. Its words must not be touched afterwards. */
export interface KeptMapping {
  /** The words, 32 bits each, little-endian. */
  readonly words: Uint32Array;
  close(): void;
}

export interface KeptTable {
  readonly table: FrameTable;
  close(): void;
}

export interface TableMapsParts {
  readonly koffi: Awaited<ReturnType<typeof loadKoffi>>;
  readonly foreign: Readonly<Record<keyof (typeof FOREIGNMEMORY)['functions'], NativeFunction>>;
  readonly mapM2p: Readonly<
    Record<Extract<keyof (typeof XENGUEST)['functions'], 'xc_map_m2p'>, NativeFunction>
  >;
  /** The xenforeignmemory_handle. */
  readonly handle: number | bigint;
  readonly xch: () => bigint;
}

/**
 * Maps the tables that are consulted all the time, read-only: Xen's m2p, and a guest's p2m and shared info.
 * The views stay within src/xenctrl/pv.
 */
export class TableMaps {
  readonly #parts: TableMapsParts;

  constructor(parts: TableMapsParts) {
    this.#parts = parts;
  }

  /**
   * Maps Xen's m2p.
   * @throws {XenCallError} If it cannot be mapped.
   */
  async m2p(maxMfn: number): Promise<KeptTable> {
    const { mapM2p, xch } = this.#parts;
    const bytes = Math.ceil((maxMfn * M2P_ENTRY) / M2P_CHUNK) * M2P_CHUNK;
    const { value, errno } = await mapM2p.xc_map_m2p.call(xch(), maxMfn, PROT_READ, 0n);
    if (typeof value !== 'bigint' || value === 0n) throw new XenCallError('xc_map_m2p', errno);
    const pieces: Uint32Array[] = [];
    const perPiece = M2P_PER_PIECE * M2P_ENTRY;
    for (let at = 0; at < bytes; at += perPiece) {
      pieces.push(this.#words(value + BigInt(at), Math.min(perPiece, bytes - at)));
    }
    const size = Math.min(maxMfn + 1, bytes / M2P_ENTRY);
    return {
      table: new FrameTable(pieces, M2P_PER_PIECE, size, M2P_ENTRY),
      close: () => this.#unmap(value, bytes / PAGE_SIZE),
    };
  }

  /**
   * Maps frames of a domain, one after the other.
   * @throws {XenCallError} If they cannot be mapped.
   * @throws {DomainError} If one of them is not the domain's.
   */
  async frames(domid: Domid, mfns: Uint32Array): Promise<KeptMapping> {
    const { foreign, handle } = this.#parts;
    const errors = new Int32Array(mfns.length);
    const map = foreign.xenforeignmemory_map;
    const { value, errno } = await map.call(handle, domid, PROT_READ, mfns.length, toWords(mfns), errors);
    if (typeof value !== 'bigint' || value === 0n) {
      throw new XenCallError('xenforeignmemory_map', errno, { domid });
    }
    const close = (): void => this.#unmap(value, mfns.length);
    const bad = errors.findIndex((error) => error !== 0);
    if (bad >= 0) {
      close();
      const mfn = mfns[bad] ?? 0;
      throw badGuest('P2M_FRAME', `the guest's p2m: mfn ${hexFrame(mfn)} is not a page of the guest`, {
        mfn,
      });
    }
    return { words: this.#words(value, mfns.length * PAGE_SIZE), close };
  }

  #words(address: bigint, bytes: number): Uint32Array {
    return new Uint32Array(this.#parts.koffi.view(address, bytes));
  }

  #unmap(address: bigint, pages: number): void {
    const { foreign, handle } = this.#parts;
    foreign.xenforeignmemory_unmap.callHere(handle, address, pages);
  }
}

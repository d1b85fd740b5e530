/** Calls C functions through koffi. */
import { EnvironmentError } from '../core/errors.ts';
import type { Declaration, LibraryDeclaration } from './declarations.ts';

/** Number of calls for which koffi keeps memory. More are rarely in flight at once. */
const ASYNC_POOLS = 32;

type Koffi = typeof import('koffi').default;

/**
 * An argument of a C function: a number, a pointer (0n is NULL), a string, or memory that must not move or be
 * freed until the call returns.
 */
export type NativeArgument = number | bigint | string | ArrayBufferView;

/** The result of a call, with the errno of the thread that made it. */
export interface NativeResult {
  /** A pointer is its address, NULL is 0n; void is 0. */
  readonly value: number | bigint;
  readonly errno: number;
}

/** A C function. */
export interface NativeFunction {
  readonly name: string;
  /** Calls the function in a thread of libuv's pool. */
  call(...args: NativeArgument[]): Promise<NativeResult>;
  /** Calls the function in this thread. */
  callHere(...args: NativeArgument[]): NativeResult;
  /**
   * Calls the function in this thread with plain numbers, addresses included. Takes a fraction of a
   * microsecond; there is no errno.
   */
  callFast(...args: number[]): number | bigint;
}

/** Loads koffi when the first library is needed: it takes 50 ms, which `xlsnap --help` need not spend. */
export async function loadKoffi(): Promise<Koffi> {
  const koffi = (await import('koffi')).default;
  // Each call in flight needs a stack and a heap. Those beyond the resident ones are mapped and unmapped for
  // the call, which waits for the mapping of guest pages in other threads.
  if (koffi.config().resident_async_pools !== ASYNC_POOLS) {
    try {
      koffi.config({ resident_async_pools: ASYNC_POOLS });
    } catch {
      // koffi cannot be configured once the program that uses xlsnap has loaded a library. It is only a
      // little slower then.
    }
  }
  return koffi;
}

/**
 * Opens a library and binds its declared functions.
 * @throws {EnvironmentError} If the library, or a function in it, is missing.
 */
export function bind<Name extends string>(
  koffi: Koffi,
  library: LibraryDeclaration<Name>,
  release = '',
): Readonly<Record<Name, NativeFunction>> {
  const soname = library.soname.replace('%', release);
  try {
    const handle = koffi.load(soname === '' ? null : soname);
    const functions: Partial<Record<Name, NativeFunction>> = {};
    for (const name of Object.keys(library.functions) as Name[]) {
      functions[name] = bindFunction(koffi, handle, { name, ...library.functions[name] });
    }
    return functions as Record<Name, NativeFunction>;
  } catch (cause) {
    throw new EnvironmentError(
      'XEN_LIBRARY',
      `cannot load ${soname === '' ? 'functions of the C library' : soname}`,
      {
        cause,
        hint: 'install the Xen libraries of the running Xen',
      },
    );
  }
}

/** Does the same for a library that need not be there. */
export function bindIfInstalled<Name extends string>(
  koffi: Koffi,
  library: LibraryDeclaration<Name>,
): Readonly<Record<Name, NativeFunction>> | undefined {
  try {
    return bind(koffi, library);
  } catch {
    return undefined;
  }
}

function bindFunction(
  koffi: Koffi,
  handle: ReturnType<Koffi['load']>,
  { name, result, parameters }: Declaration,
): NativeFunction {
  const native = handle.func(name, koffiType(result), parameters.map(koffiType));
  return {
    name,
    call: (...args) =>
      new Promise((resolve, reject) => {
        native.async(...args.map(toNative), (error: unknown, value: unknown) => {
          // Only inside this callback is errno that of the call: koffi keeps one for each call in flight.
          const errno = koffi.errno();
          if (error) reject(error);
          else resolve({ value: fromNative(value), errno });
        });
      }),
    callHere: (...args) => {
      const value = fromNative(native(...args.map(toNative)));
      return { value, errno: koffi.errno() };
    },
    callFast: native as (...args: number[]) => number | bigint,
  };
}

function toNative(value: NativeArgument): NativeArgument | null {
  return value === 0n ? null : value;
}

function fromNative(value: unknown): number | bigint {
  if (typeof value === 'number' || typeof value === 'bigint') return value;
  return value === null ? 0n : 0;
}

/** The koffi names of the C scalars in the declarations, for x86-64 Linux. */
const SCALARS: Readonly<Record<string, string>> = {
  void: 'void',
  int: 'int',
  unsigned: 'unsigned int',
  'unsigned int': 'unsigned int',
  uint32_t: 'uint32_t',
  uint64_t: 'uint64_t',
  'unsigned long': 'unsigned long',
  'long long': 'int64_t',
  size_t: 'size_t',
  ssize_t: 'int64_t',
  off_t: 'int64_t',
  xentoollog_level: 'int',
};

function koffiType(type: string): string {
  if (type === 'const char *') return type;
  // One pointer: on x86-64 it is passed like a declared parameter.
  if (type === '...') return 'void *';
  if (type.endsWith('*')) return 'void *';
  const scalar = SCALARS[type];
  if (scalar === undefined) throw new TypeError(`no koffi type for ${type}`);
  return scalar;
}

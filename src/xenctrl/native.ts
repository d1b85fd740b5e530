/** Calls C functions through koffi. */
import { EnvironmentError } from '../core/errors.ts';
import type { Declaration, LibraryDeclaration } from './declarations.ts';

/** More calls than this are never under way at once for long. */
const ASYNC_POOLS = 32;

type Koffi = typeof import('koffi').default;

/** What goes into C: numbers, pointers (0n is NULL), strings, and memory that must not move or go until the call is over. */
export type NativeArgument = number | bigint | string | ArrayBufferView;

/** What came back, with the errno of the call's own thread. */
export interface NativeResult {
  /** Pointers are addresses, NULL is 0n; void is 0. */
  readonly value: number | bigint;
  readonly errno: number;
}

/** One C function. */
export interface NativeFunction {
  readonly name: string;
  /** Calls in a thread of libuv's pool. */
  call(...args: NativeArgument[]): Promise<NativeResult>;
  /** Calls in this thread. */
  callHere(...args: NativeArgument[]): NativeResult;
  /** Calls in this thread with plain numbers, an address as one too, in a fraction of a microsecond; no errno. */
  callFast(...args: number[]): number | bigint;
}

/** Loads koffi when the first library is needed: it costs 50 ms, which `xlsnap --help` need not pay. */
export async function loadKoffi(): Promise<Koffi> {
  const koffi = (await import('koffi')).default;
  // Each call in flight needs a stack and a heap. Those beyond the resident ones are mapped and unmapped for the call,
  // which waits for the mapping of guest pages in other threads.
  if (koffi.config().resident_async_pools !== ASYNC_POOLS) {
    try {
      koffi.config({ resident_async_pools: ASYNC_POOLS });
    } catch {
      // koffi takes no configuration once the program that uses xlsnap has loaded a library; it is only a little slower.
    }
  }
  return koffi;
}

/**
 * Opens a library and binds its declared functions.
 * @throws EnvironmentError when the library, or a function in it, is missing.
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
          // Only inside of this callback is errno that of the call: koffi keeps one for each call in flight.
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

/** C scalars of the declarations in koffi's words, for x86-64 Linux. */
const SCALARS: Readonly<Record<string, string>> = {
  void: 'void',
  int: 'int',
  unsigned: 'unsigned int',
  'unsigned int': 'unsigned int',
  uint32_t: 'uint32_t',
  'unsigned long': 'unsigned long',
  'long long': 'int64_t',
  size_t: 'size_t',
  ssize_t: 'int64_t',
  off_t: 'int64_t',
  xentoollog_level: 'int',
};

function koffiType(type: string): string {
  if (type === 'const char *') return type;
  if (type.endsWith('*')) return 'void *';
  const scalar = SCALARS[type];
  if (scalar === undefined) throw new TypeError(`no koffi type for ${type}`);
  return scalar;
}

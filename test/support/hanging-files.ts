/**
 * Simulates a file system that hangs: any call on files below a directory can be made to never end. Calls in this
 * thread, which would block the whole process, are recorded instead. Patches `node:fs` while it is used.
 */
import fs from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';

const BY_PATH = [
  'access',
  'link',
  'lstat',
  'mkdir',
  'open',
  'readFile',
  'readdir',
  'realpath',
  'rename',
  'rm',
  'rmdir',
];
const MORE_BY_PATH = ['stat', 'statfs', 'unlink', 'writeFile'];
const OF_HANDLES = ['appendFile', 'close', 'datasync', 'read', 'readFile', 'stat', 'sync', 'write'];
const HERE_BY_PATH = ['appendFileSync', 'existsSync', 'lstatSync', 'mkdirSync', 'openSync', 'readFileSync'];
const MORE_HERE = [
  'readdirSync',
  'renameSync',
  'rmSync',
  'statSync',
  'statfsSync',
  'unlinkSync',
  'writeFileSync',
];
const HERE_BY_FD = ['closeSync', 'fdatasyncSync', 'fstatSync', 'fsyncSync', 'readSync', 'writeSync'];
/** Has a callback. */
const BY_FD = ['read', 'write'];

type AnyFunction = (...args: never[]) => unknown;

const systems = new Set<HangingFiles>();
let restore: (() => void) | undefined;

export class HangingFiles implements Disposable {
  /** Every call so far: the function, and whether it was made in this thread. */
  readonly calls: { readonly name: string; readonly here: boolean }[] = [];
  /** The file system hangs from this call on, counted from 0; with `once`, only in this call. */
  hangsAt = Number.POSITIVE_INFINITY;
  once = false;
  /** Called with each call that hangs. */
  onHang: (name: string, here: boolean) => void = () => {};
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = `${directory}/`;
    systems.add(this);
    restore ??= patch();
  }

  has(path: unknown): boolean {
    return typeof path === 'string' && `${path}/`.startsWith(this.#directory);
  }

  /**
   * Records a call.
   * @returns whether it hangs
   */
  enter(name: string, here: boolean): boolean {
    const at = this.calls.length;
    this.calls.push({ name, here });
    if (this.once ? at !== this.hangsAt : at < this.hangsAt) return false;
    this.onHang(name, here);
    return true;
  }

  [Symbol.dispose](): void {
    systems.delete(this);
    if (systems.size > 0) return;
    restore?.();
    restore = undefined;
  }
}

function patch(): () => void {
  const undo: (() => void)[] = [];
  const replace = (of: object, name: string, make: (real: AnyFunction) => AnyFunction): void => {
    const real: unknown = Reflect.get(of, name);
    if (typeof real !== 'function') throw new Error(`there is no ${name}`);
    Reflect.set(of, name, Object.assign(make(real as AnyFunction), real));
    undo.push(() => Reflect.set(of, name, real));
  };
  const { readlinkSync } = fs;
  /** By its name in /proc, since descriptor numbers are reused. */
  const ofFd = (fd: unknown): HangingFiles | undefined => {
    try {
      return ofPath(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return undefined;
    }
  };
  const ofPath = (path: unknown): HangingFiles | undefined => [...systems].find((one) => one.has(path));
  const never = (): Promise<never> => new Promise(() => {});
  for (const name of [...BY_PATH, ...MORE_BY_PATH]) {
    replace(fs.promises, name, (real) => async (...args) => {
      const system = ofPath(args[0]);
      if (system?.enter(name, false) === true) return await never();
      const result = await real(...args);
      if (name === 'open' && system !== undefined) watchHandle(result as FileHandle, system);
      return result;
    });
  }
  for (const name of [...HERE_BY_PATH, ...MORE_HERE]) {
    replace(fs, name, (real) => (...args) => {
      if (ofPath(args[0])?.enter(name, true) === true) throw new Error(`${name} would hang`);
      return real(...args);
    });
  }
  for (const name of HERE_BY_FD) {
    replace(fs, name, (real) => (...args) => {
      if (ofFd(args[0])?.enter(name, true) === true) throw new Error(`${name} would hang`);
      return real(...args);
    });
  }
  for (const name of BY_FD) {
    replace(fs, name, (real) => (...args) => {
      if (ofFd(args[0])?.enter(name, false) === true) return undefined;
      return real(...args);
    });
  }
  syncBuiltinESMExports();
  return () => {
    for (const one of undo) one();
    syncBuiltinESMExports();
  };
}

/** The handle's own methods are patched from now on. */
function watchHandle(handle: FileHandle, system: HangingFiles): void {
  for (const name of OF_HANDLES) {
    const real = Reflect.get(handle, name) as AnyFunction;
    Reflect.set(handle, name, async (...args: never[]) => {
      if (system.enter(`handle.${name}`, false)) return await new Promise(() => {});
      return await Reflect.apply(real, handle, args);
    });
  }
}

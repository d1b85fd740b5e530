/** The memory file while it is written, and other files that appear only when they are complete. */
import { constants, writeSync } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { errnoCode, OutputError, throwIfAborted } from '../../core/errors.ts';
import {
  type FileIdentity,
  isSameFile,
  type Reservation,
  removeReserved,
  renameNew,
  reserveFile,
  syncDirectory,
} from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { FileRange } from '../../memfile/checksums.ts';
import { partialOf } from '../../memfile/names.ts';
import type { CloneSums } from '../track/clone-sums.ts';
import { WrittenSums } from './written-sums.ts';

/** Writes of fewer bytes are made in this thread: handing one over takes as long. */
const SHORT_WRITE = 64 * 1024;

/** Output for a guest's memory: a file, or a stream that can only be appended to. */
export interface MemoryOutput {
  /**
   * Writes bytes at an offset.
   * @throws {OutputError} If it fails
   */
  writeAt(bytes: Uint8Array, position: number): Promise<void>;
  /** Bytes of length and bytes that the file system has allocated. */
  sizes(): Promise<{ fileBytes: number; allocatedBytes: number }>;
  /**
   * Completes the output.
   * @throws {OutputError} If it fails; `discard` is still to be called then
   */
  commit(options?: { readonly sync?: boolean }): Promise<void>;
  /** Undoes what has been written, as far as that is possible. */
  discard(): Promise<void>;
}

/** A file that is written at offsets. */
export interface PositionalOutput extends Pick<MemoryOutput, 'writeAt'> {
  readonly fd: number;
  /** The same file, opened with O_DIRECT, if writes should go past the page cache. */
  readonly directFd?: number | undefined;
  /**
   * Resolves when a write by `fd` may begin.
   * @throws {InterruptedError} If nothing needs to be written any more
   */
  mayWrite(): Promise<void>;
  /**
   * Notes a stretch that is being written by `fd`. The file stays open until that has ended.
   * @param written gives its checksum, which is kept until something is written there again
   */
  noteWrite(stretch: FileRange, written: Promise<string | undefined>): void;
  /**
   * Waits until all stretches are written.
   * @throws what the first that failed threw
   */
  written(): Promise<void>;
  /** Called now and then while the guest runs: starts writing to disk what has been written so far. */
  beginSync(): void;
}

/**
 * A file that appears under its name only when it is complete: it is written as `<path>.partial`, mode 0600, and renamed
 * after its bytes are on the disk. An existing file is never changed.
 */
export class OutputFile implements MemoryOutput, PositionalOutput {
  readonly path: string;
  readonly partialPath: string;
  /** While the guest is stopped, nothing in this thread waits for the file system: signals must be handled. */
  guestStopped = false;
  readonly #file: FileHandle;
  #direct: FileHandle | undefined;
  readonly #sums = new WrittenSums();
  /** Stretches that are being written by the descriptor. */
  readonly #underWay = new Set<Promise<void>>();
  #writeFailure: { readonly error: unknown } | undefined;
  readonly #discarded = new AbortController();
  #pause: { readonly promise: Promise<void>; readonly end: () => void } | undefined;
  /** Set if the file began as a clone of another memory file: sums up what was written since. */
  cloneSums: CloneSums | undefined;
  /** What the file is, from when it may have its name. */
  #identity: FileIdentity | undefined;
  #syncing: Promise<void> | undefined;
  #syncFailure: { readonly cause: unknown } | undefined;

  private constructor(path: string, partialPath: string, file: FileHandle) {
    this.path = path;
    this.partialPath = partialPath;
    this.#file = file;
  }

  /**
   * Creates the partial file.
   * @param reservation so that an undo in another process can tell it from another program's
   * @throws {OutputError} If `<path>.partial` already exists or cannot be created
   */
  static async create(path: string, reservation?: Reservation): Promise<OutputFile> {
    const partialPath = partialOf(path);
    try {
      if (reservation !== undefined) {
        return new OutputFile(path, partialPath, await createReserved(partialPath, reservation));
      }
      const flags = constants.O_RDWR | constants.O_CREAT | constants.O_EXCL;
      return new OutputFile(path, partialPath, await open(partialPath, flags, 0o600));
    } catch (error) {
      if (error instanceof OutputError) throw error;
      const hint =
        errnoCode(error) === 'EEXIST'
          ? `another xlsnap is writing it, or one was killed: run xlsnap recover ${shellQuote(path)}`
          : 'check the directory and its permissions';
      throw new OutputError('OUTPUT_CREATE', `cannot create ${partialPath}`, { cause: error, hint });
    }
  }

  /** File descriptor, open for reading and writing. */
  get fd(): number {
    return this.#file.fd;
  }

  async mayWrite(): Promise<void> {
    await this.#pause?.promise;
    throwIfAborted(this.#discarded.signal);
  }

  /** Has `mayWrite` wait until `resumeWrites`. */
  pauseWrites(): void {
    let end = (): void => {};
    const promise = new Promise<void>((resolve) => {
      end = resolve;
    });
    this.#pause = { promise, end };
  }

  resumeWrites(): void {
    this.#pause?.end();
    this.#pause = undefined;
  }

  get directFd(): number | undefined {
    return this.#direct?.fd;
  }

  /** Opens the file once more, for writes past the page cache. Not all file systems can do that; then it changes nothing. */
  async openDirect(): Promise<void> {
    const flags = constants.O_WRONLY | constants.O_DIRECT;
    // By the descriptor: it is this file, whatever has its name.
    this.#direct ??= await open(`/proc/self/fd/${this.#file.fd}`, flags).catch(() => undefined);
  }

  /**
   * Writes all of `bytes` at an offset.
   * @throws {OutputError} If it fails
   */
  async writeAt(bytes: Uint8Array, position: number): Promise<void> {
    const range = { from: position, to: position + bytes.length };
    this.#sums.forget(range);
    this.cloneSums?.note(range);
    let done = 0;
    try {
      while (done < bytes.length) {
        const rest = bytes.length - done;
        done +=
          rest < SHORT_WRITE && !this.guestStopped
            ? writeSync(this.#file.fd, bytes, done, rest, position + done)
            : (await this.#file.write(bytes, done, rest, position + done)).bytesWritten;
      }
    } catch (error) {
      throw new OutputError('OUTPUT_WRITE', `cannot write ${this.partialPath}`, {
        cause: error,
        offset: position + done,
        hint: 'check the file system: is it full, or failing?',
      });
    }
  }

  noteWrite(stretch: FileRange, written: Promise<string | undefined>): void {
    const noteSum = this.#sums.begin(stretch);
    const ended: Promise<void> = written
      .then(
        (sum) => {
          if (sum !== undefined) noteSum(sum);
        },
        (error: unknown) => {
          this.#writeFailure ??= { error };
        },
      )
      .finally(() => this.#underWay.delete(ended));
    this.#underWay.add(ended);
  }

  async written(): Promise<void> {
    await Promise.all(this.#underWay);
    if (this.#writeFailure !== undefined) throw this.#writeFailure.error;
  }

  /** Returns the checksum of a stretch, if all of it is as it was when that was noted. */
  sumOf(stretch: FileRange): string | undefined {
    return this.#sums.of(stretch);
  }

  /**
   * Starts writing to disk what has been written so far, so that `commit` has less to wait for. Failures are kept
   * for `commit`, since Linux reports each only once.
   */
  beginSync(): void {
    this.#syncing ??= this.#file
      .datasync()
      .catch((cause: unknown) => {
        this.#syncFailure ??= { cause };
      })
      .finally(() => {
        this.#syncing = undefined;
      });
  }

  /**
   * Cuts off what a clone has beyond the end of what was written.
   * @throws {OutputError} If it fails
   */
  async setLength(bytes: number): Promise<void> {
    try {
      await this.#file.truncate(bytes);
    } catch (cause) {
      throw new OutputError('OUTPUT_WRITE', `cannot shorten ${this.partialPath}`, { cause });
    }
  }

  async sizes(): Promise<{ fileBytes: number; allocatedBytes: number }> {
    const { size, blocks } = await this.#file.stat();
    return { fileBytes: size, allocatedBytes: blocks * 512 };
  }

  /**
   * Syncs the bytes to disk, unless `sync` is false, then renames the file.
   * @throws {OutputError} If it fails; the partial file is still there
   */
  async commit({ sync = true }: { readonly sync?: boolean } = {}): Promise<void> {
    try {
      await this.written();
      await this.#syncing;
      if (this.#syncFailure !== undefined) throw this.#syncFailure.cause;
      if (sync) await this.#file.datasync();
      await this.#giveName();
      if (sync) await syncDirectory(dirname(this.path));
    } catch (error) {
      if (error instanceof OutputError) throw error;
      throw new OutputError('OUTPUT_COMMIT', `cannot finish ${this.path}`, {
        cause: error,
        hint: 'check the file system: is it full, or failing?',
      });
    }
  }

  async #giveName(): Promise<void> {
    this.#identity = await this.#file.stat();
    await this.#direct?.close();
    await this.#file.close();
    try {
      await renameNew(this.partialPath, this.path);
    } catch (error) {
      if (errnoCode(error) !== 'EEXIST') throw error;
      throw new OutputError('OUTPUT_EXISTS', `${this.path} was created in the meantime`);
    }
  }

  /**
   * Removes what has been written, under either name; never another's file. What waits to be written no longer is.
   * @param users when they are over; until then the file's number must not become another file's
   */
  async discard(users?: Promise<unknown>): Promise<void> {
    this.#discarded.abort();
    this.resumeWrites();
    const close = async (): Promise<void> => {
      await this.#direct?.close().catch(() => undefined);
      await this.#file.close().catch(() => undefined);
    };
    if (users === undefined && this.#underWay.size === 0) await close();
    else void Promise.all([users, ...this.#underWay]).then(close);
    await rm(this.partialPath, { force: true });
    if (this.#identity === undefined) return;
    const named = await stat(this.path).catch(() => undefined);
    if (named !== undefined && isSameFile(named, this.#identity)) await rm(this.path, { force: true });
  }
}

/** Reserves a file and opens it. */
async function createReserved(path: string, reservation: Reservation): Promise<FileHandle> {
  const inode = await reserveFile(path, reservation);
  try {
    const file = await open(path, constants.O_RDWR | constants.O_NOFOLLOW);
    if ((await file.stat()).ino === inode) return file;
    await file.close();
    throw new Error('another file has taken its place');
  } catch (error) {
    await removeReserved(path, { mark: reservation.mark, inode });
    throw error;
  }
}

/**
 * Writes a small file in the same way: all or nothing, mode 0600.
 * @throws {OutputError} If it already exists, or cannot be written
 */
export async function writeWhole(path: string, text: string, reservation?: Reservation): Promise<void> {
  const file = await OutputFile.create(path, reservation);
  try {
    await file.writeAt(new TextEncoder().encode(text), 0);
    await file.commit();
  } catch (error) {
    await file.discard();
    throw error;
  }
}

/**
 * The file that a journal is: what an operation has done so far or is to do, enough to undo or finish it when its process has exited.
 * One object in JSON on each line: the first says of what, the others what is about to take effect or has taken effect.
 * A process that is killed loses none of them; those that were not synced may be lost with the host.
 */

import { constants, readFileSync, writeSync } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describeError, EXIT, errnoCode, OutputError, XlsnapError } from '../../core/errors.ts';
import { Fields } from '../../core/fields.ts';
import { syncDirectory } from '../../core/files.ts';
import { isRecord } from '../../core/guards.ts';
import { shellQuote } from '../../core/shell-quote.ts';

/** A journal that cannot be read as one, or must not be trusted. */
export class JournalError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/** The part of the first line that every journal has. */
export interface JournalHead {
  readonly format: 'xlsnap-journal';
  readonly version: 1;
  readonly kind: 'create' | 'revert' | 'delete';
  readonly pid: number;
  /** The kernel's id of this boot: steps of another one may be lost, and domids mean other domains. */
  readonly boot: string;
  /** ISO 8601, UTC. */
  readonly created: string;
  /** Of the snapshot. */
  readonly name: string;
  readonly domain: string;
  readonly uuid: string;
}

/** A journal that was found, of one kind. */
export interface FoundSteps<Head extends JournalHead, Step> {
  readonly path: string;
  readonly head: Head;
  readonly steps: readonly Step[];
  /** Whether steps may be missing. */
  readonly lossy: boolean;
}

const MAX_JOURNAL_BYTES = 4 * 1024 * 1024;
const LINE_END = 10;

/** The kernel's id of this boot. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** Tells whether something was written in this boot: what it says of domains is about those of now. */
export function isOfThisBoot({ boot }: { readonly boot?: unknown }): boolean {
  return boot === bootId();
}

/** Makes the part of the first line that every journal has. */
export function makeHead<Kind extends JournalHead['kind']>(
  kind: Kind,
  { name, domain, uuid }: Pick<JournalHead, 'name' | 'domain' | 'uuid'>,
): JournalHead & { readonly kind: Kind } {
  return {
    format: 'xlsnap-journal',
    version: 1,
    kind,
    pid: process.pid,
    boot: bootId(),
    created: new Date().toISOString(),
    name,
    domain,
    uuid,
  };
}

/** The journal of a running operation. */
export class Journal<Step extends object> {
  readonly path: string;
  readonly #file: FileHandle;
  readonly #sync: boolean;
  #synced: Promise<void> = Promise.resolve();

  private constructor(path: string, file: FileHandle, sync = true) {
    this.path = path;
    this.#file = file;
    this.#sync = sync;
  }

  /**
   * Creates the journal as `create` does; it is on disk once this resolves.
   * @throws {OutputError} If it already exists, or cannot be created
   */
  static async createDurably<Step extends object>(
    path: string,
    head: JournalHead,
    recover: string,
  ): Promise<Journal<Step>> {
    const journal = await Journal.create<Step>(path, head, { recover, sync: true });
    try {
      await journal.synced();
    } catch (error) {
      await journal.remove();
      throw error;
    }
    return journal;
  }

  /**
   * Creates the journal, mode 0600, and writes its first line; `synced` waits until that is on disk.
   * @param options `recover`: the argument of `xlsnap recover` to suggest if it already exists; `sync`: whether the first line
   * is synced to disk at all
   * @throws {OutputError} If it already exists, or cannot be created
   */
  static async create<Step extends object>(
    path: string,
    head: JournalHead,
    { recover, sync }: { readonly recover: string; readonly sync: boolean },
  ): Promise<Journal<Step>> {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND;
    let file: FileHandle;
    try {
      file = await open(path, flags, 0o600);
    } catch (cause) {
      throw new OutputError('JOURNAL', `cannot create ${path}`, {
        cause,
        hint:
          errnoCode(cause) === 'EEXIST'
            ? `an earlier command was killed: run xlsnap recover ${shellQuote(recover)}`
            : 'check the directory and its permissions',
      });
    }
    const journal = new Journal<Step>(path, file, sync);
    try {
      journal.#write(head);
    } catch (error) {
      await journal.remove();
      throw error;
    }
    if (sync) {
      journal.#synced = file.datasync().then(() => syncDirectory(dirname(path)));
      journal.#synced.catch(() => {});
    }
    return journal;
  }

  /**
   * Opens a journal whose process has exited, to add notes to it.
   * @throws {OutputError} If it cannot be opened
   */
  static async reopen<Step extends object>(path: string): Promise<Journal<Step>> {
    try {
      const file = await open(path, constants.O_RDWR | constants.O_APPEND);
      const { size } = await file.stat();
      const { buffer } = await file.read(Buffer.alloc(1), 0, 1, Math.max(0, size - 1));
      // A line that was cut off must not spoil the next.
      if (buffer[0] !== LINE_END) writeSync(file.fd, '\n');
      return new Journal<Step>(path, file);
    } catch (cause) {
      throw new OutputError('JOURNAL', `cannot open ${path}`, { cause });
    }
  }

  /**
   * Waits until the first line is on the disk.
   * @throws {OutputError} If it cannot be written
   */
  async synced(): Promise<void> {
    try {
      await this.#synced;
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  /**
   * Notes a step. At once, in this thread: it must be in the file before the step takes effect, and costs some
   * microseconds.
   * @throws {OutputError} If it cannot be written
   */
  note(step: Step): void {
    this.#write(step);
  }

  /**
   * Notes a step, and waits until that is on the disk.
   * @throws {OutputError} If it cannot be written
   */
  async noteDurably(step: Step): Promise<void> {
    this.#write(step);
    try {
      await this.#file.datasync();
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  /** Does the same outside this thread, since the file system may hang. */
  async noteLater(step: Step): Promise<void> {
    await this.#file.write(`${JSON.stringify(step)}\n`);
  }

  /** Notes a step if possible: the step itself matters more than the note. */
  noteMaybe(step: Step): void {
    try {
      this.note(step);
    } catch {
      // The disk may be full.
    }
  }

  /** Closes and removes it. */
  async remove(): Promise<void> {
    await this.keep();
    await rm(this.path, { force: true });
    // Otherwise it could reappear after a power failure, beside a complete snapshot.
    if (this.#sync) await syncDirectory(dirname(this.path));
  }

  /** Closes it; it stays for `recoverSnapshot`. */
  async keep(): Promise<void> {
    await this.#synced.catch(() => {});
    await this.#file.close().catch(() => {});
  }

  #write(value: object): void {
    const line = new TextEncoder().encode(`${JSON.stringify(value)}\n`);
    try {
      for (let done = 0; done < line.length; ) done += writeSync(this.#file.fd, line, done);
    } catch (cause) {
      throw this.#failed(cause);
    }
  }

  #failed(cause: unknown): OutputError {
    return new OutputError('JOURNAL', `cannot write ${this.path}`, {
      cause,
      hint: 'check the file system: is it full, or failing?',
    });
  }
}

/** Notes in a journal why it stays. */
export async function noteProblem(path: string, message: string): Promise<void> {
  // Not created again if it does not exist.
  await using file = await open(path, constants.O_WRONLY | constants.O_APPEND);
  await file.write(`${JSON.stringify({ step: 'problem', message })}\n`);
}

/** The lines of a journal. */
export interface JournalLines {
  readonly head: Readonly<Record<string, unknown>>;
  /** A line that is not JSON is `undefined`. */
  readonly steps: readonly unknown[];
  /** Whether the last line was being written. */
  readonly torn: boolean;
}

/**
 * Reads a journal's lines.
 * @returns `undefined` when there is no such file; `headless` when its writer was killed before anything else was done
 * @throws {JournalError} If it is not a journal, is of a later version, or another user could have written it
 */
export async function readJournalLines(path: string): Promise<JournalLines | 'headless' | undefined> {
  let text: string;
  try {
    await using file = await open(path);
    const { size, uid, mode } = await file.stat();
    // It lists what to remove, so only root may have been able to write it.
    if (uid !== process.geteuid?.() || (mode & 0o022) !== 0) {
      throw journalError(path, 'could have been written by another user', 'check its owner and mode');
    }
    if (size > MAX_JOURNAL_BYTES) throw journalError(path, `is larger than ${MAX_JOURNAL_BYTES} bytes`);
    text = await file.readFile('utf8');
  } catch (error) {
    if (['ENOENT', 'ENOTDIR'].includes(errnoCode(error) ?? '')) return undefined;
    if (error instanceof XlsnapError) throw error;
    throw journalError(path, `cannot be read: ${describeError(error)}`);
  }
  const [first = '', ...rest] = text.split('\n');
  // The part behind the last line's end: a line that was being written.
  const tail = rest.pop();
  // There is not even a first line, or the host went down before it was on disk: nothing had been done.
  if (tail === undefined || /^\0*$/.test(text)) return 'headless';
  const head = parse(first);
  if (!isRecord(head) || head['format'] !== 'xlsnap-journal')
    throw journalError(path, 'is not an xlsnap journal');
  if (head['version'] !== 1) {
    throw journalError(
      path,
      `has version ${String(head['version'])}; this xlsnap knows 1`,
      'use the xlsnap that wrote it',
    );
  }
  return { head, steps: rest.map(parse), torn: tail !== '' };
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

/**
 * Reads the part of a first line that every journal has.
 * @returns `fields` for the others
 * @throws {JournalError} If one is missing or wrong
 */
export function readHead<Kind extends JournalHead['kind']>(
  path: string,
  head: JournalLines['head'],
  kind: Kind,
): { readonly common: JournalHead & { readonly kind: Kind }; readonly fields: Fields } {
  const fields = new Fields(head, (problem) => journalError(path, `is damaged: ${problem}`));
  const common = {
    format: 'xlsnap-journal',
    version: 1,
    kind,
    pid: fields.count('pid'),
    boot: fields.text('boot'),
    created: fields.text('created'),
    name: fields.text('name'),
    domain: fields.text('domain'),
    uuid: fields.text('uuid'),
  } as const;
  return { common, fields };
}

/** Turns lines into steps; unknown ones are left out. */
export function toSteps<Step>(
  { steps, torn }: JournalLines,
  head: JournalHead,
  toStep: (line: Readonly<Record<string, unknown>>) => Step | undefined,
): { readonly steps: readonly Step[]; readonly lossy: boolean } {
  const known = steps.map((line) => (isRecord(line) ? toStep(line) : undefined));
  const found = known.filter((step) => step !== undefined);
  return { steps: found, lossy: torn || found.length < known.length || !isOfThisBoot(head) };
}

/**
 * Refuses a journal that was moved: what it says holds only for its original place.
 * @param place where a journal with that head must be
 * @throws {JournalError} If it was
 */
export async function checkPlace(path: string, place: string): Promise<void> {
  const own = await stat(path).catch((error: unknown) => {
    // Its writer has removed it since it was read.
    if (errnoCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (own === undefined) return;
  const there = await stat(place).catch(() => undefined);
  if (there?.ino === own.ino && there.dev === own.dev) return;
  throw journalError(path, `belongs at ${place}, not here`, 'move it back to where it was written');
}

/** @returns the error to throw */
export function journalError(path: string, problem: string, hint?: string): JournalError {
  return new JournalError('JOURNAL', `the journal ${path} ${problem}`, {
    hint: hint ?? 'read it: each line is a JSON object that says what was done',
  });
}

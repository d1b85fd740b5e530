/**
 * What a create has done so far, in a file beside the memory file: enough to undo it when its process is gone.
 * One object in JSON on each line: the first says of what, the others what is about to take effect or has taken effect.
 * A process that is killed loses none of them. The first line is on the disk before the guest is touched; the others
 * may be lost with the host, so `recoverJournal` looks at what is there then.
 */
import { constants, readFileSync, writeSync } from 'node:fs';
import { type FileHandle, open, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { describeError, EXIT, errnoCode, OutputError, XlsnapError } from '../core/errors.ts';
import { isRecord } from '../core/guards.ts';
import type { HoldState } from './hold.ts';
import { checkedDisk } from './manifest.ts';
import { syncDirectory } from './output-file.ts';
import type { SnapshotDisk, SnapshotPlan } from './types.ts';

/** A journal that cannot be read as one, or must not be trusted. */
export class JournalError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/** A step of a create. */
export type JournalStep =
  /** The partial file is there, with this inode number. */
  | { readonly step: 'opened'; readonly inode: number }
  | { readonly step: 'log-dirty'; readonly on: boolean }
  | { readonly step: 'hold'; readonly hold: HoldState }
  /** The disks' transaction comes now. */
  | { readonly step: 'disks' }
  /** A small file of these octets comes now. */
  | { readonly step: 'text'; readonly path: string; readonly sha256: string }
  /** A stream's reader has all of it. */
  | { readonly step: 'whole' }
  | { readonly step: 'undoing' }
  /** Why a guardian could not undo all. */
  | { readonly step: 'problem'; readonly message: string };

/** What the first line says. */
export interface JournalHead {
  readonly format: 'xlsnap-journal';
  readonly version: 1;
  readonly pid: number;
  /** The kernel's id of this boot: steps of another one may be lost, and domids mean other domains. */
  readonly boot: string;
  /** ISO 8601, UTC. */
  readonly created: string;
  readonly name: string;
  readonly domain: string;
  readonly domid: number;
  readonly uuid: string;
  /** The memory file; for a stream, where it would be. */
  readonly memoryPath: string;
  /** The highest directory that was made for it, if any. */
  readonly madeDirectory?: string;
  readonly disks: readonly SnapshotDisk[];
}

/** A journal as it was found. */
export interface FoundJournal {
  readonly path: string;
  /** Absent when its writer was killed before anything else was done. */
  readonly head: JournalHead | undefined;
  readonly steps: readonly JournalStep[];
  /** Whether steps may be missing. */
  readonly lossy: boolean;
}

const MAX_JOURNAL_BYTES = 4 * 1024 * 1024;

/** The journal that belongs to a memory file. */
export function journalPathOf(memoryPath: string): string {
  return `${memoryPath}.journal`;
}

/** The kernel's id of this boot. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim();
}

/** The journal of a create that is under way. */
export class Journal {
  readonly path: string;
  readonly #file: FileHandle;
  #synced: Promise<void> = Promise.resolve();

  private constructor(path: string, file: FileHandle) {
    this.path = path;
    this.#file = file;
  }

  /**
   * Makes the journal, mode 0600, and writes its first line; `synced` tells when that is on the disk.
   * @param base the memory file, or where it would be
   * @throws OutputError when there is one already, or it cannot be made
   */
  static async create(plan: SnapshotPlan, base: string, madeDirectory: string | undefined): Promise<Journal> {
    const path = journalPathOf(base);
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND;
    let file: FileHandle;
    try {
      file = await open(path, flags, 0o600);
    } catch (cause) {
      throw new OutputError('JOURNAL', `cannot create ${path}`, {
        cause,
        hint:
          errnoCode(cause) === 'EEXIST'
            ? `a former create was killed: xlsnap recover ${base}`
            : 'check the directory and its permissions',
      });
    }
    const journal = new Journal(path, file);
    const head: JournalHead = {
      format: 'xlsnap-journal',
      version: 1,
      pid: process.pid,
      boot: bootId(),
      created: new Date().toISOString(),
      name: plan.name,
      domain: plan.domain,
      domid: plan.domid,
      uuid: plan.uuid,
      memoryPath: base,
      ...(madeDirectory === undefined ? {} : { madeDirectory }),
      disks: plan.disks,
    };
    try {
      journal.#write(head);
    } catch (error) {
      await journal.remove();
      throw error;
    }
    if (plan.sync) {
      journal.#synced = file.datasync().then(() => syncDirectory(dirname(path)));
      journal.#synced.catch(() => {});
    }
    return journal;
  }

  /**
   * Waits until the first line is on the disk.
   * @throws OutputError
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
   * @throws OutputError
   */
  note(step: JournalStep): void {
    this.#write(step);
  }

  /** Closes and removes it. */
  async remove(): Promise<void> {
    await this.#synced.catch(() => {});
    await this.#file.close().catch(() => {});
    await rm(this.path, { force: true });
  }

  /** Closes it; it stays for `recoverJournal`. */
  async keep(): Promise<void> {
    await this.#synced.catch(() => {});
    await this.#file.close().catch(() => {});
  }

  #write(value: JournalHead | JournalStep): void {
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

/** Notes in a journal that stays why it does. */
export async function noteProblem(path: string, message: string): Promise<void> {
  const step: JournalStep = { step: 'problem', message };
  // Not made anew where there is none.
  await using file = await open(path, constants.O_WRONLY | constants.O_APPEND);
  await file.write(`${JSON.stringify(step)}\n`);
}

/**
 * Reads a journal.
 * @returns `undefined` when there is no such file
 * @throws JournalError when it is none, or another could have written it
 */
export async function readJournal(path: string): Promise<FoundJournal | undefined> {
  let text: string;
  try {
    await using file = await open(path);
    const { size, uid, mode } = await file.stat();
    // It says what to remove, so only we may have written it.
    if (uid !== process.geteuid?.() || (mode & 0o022) !== 0) {
      throw bad(path, 'could have been written by somebody else', 'look at its owner and mode');
    }
    if (size > MAX_JOURNAL_BYTES) throw bad(path, `is larger than ${MAX_JOURNAL_BYTES} octets`);
    text = await file.readFile('utf8');
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    if (error instanceof XlsnapError) throw error;
    throw bad(path, `cannot be read: ${describeError(error)}`);
  }
  const [first = '', ...rest] = text.split('\n');
  // The part behind the last line's end: a line that was being written.
  const tail = rest.pop();
  // Not even the first line is there, or the host went down before it was on the disk: nothing had been done.
  if (tail === undefined || /^\0*$/.test(text)) return { path, head: undefined, steps: [], lossy: true };
  const head = checkedHead(path, parse(first));
  await checkPlace(path, head);
  const steps: JournalStep[] = [];
  let lossy = tail !== '' || head.boot !== bootId();
  for (const line of rest) {
    const step = toStep(parse(line));
    if (step === undefined) lossy = true;
    else steps.push(step);
  }
  return { path, head, steps, lossy };
}

/** A journal that was moved does not speak of what is beside it. */
async function checkPlace(path: string, head: JournalHead): Promise<void> {
  const own = await stat(path);
  const there = await stat(journalPathOf(head.memoryPath)).catch(() => undefined);
  if (there?.ino === own.ino && there.dev === own.dev) return;
  throw bad(path, `is of ${head.memoryPath}, which is elsewhere`, 'move it back to where it was written');
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

function checkedHead(path: string, value: unknown): JournalHead {
  if (!isRecord(value) || value['format'] !== 'xlsnap-journal') throw bad(path, 'is no journal of xlsnap');
  if (value['version'] !== 1) {
    throw bad(
      path,
      `has version ${String(value['version'])}; this xlsnap knows 1`,
      'use the xlsnap that wrote it',
    );
  }
  const text = (key: string): string => {
    const found = value[key];
    if (typeof found !== 'string') throw bad(path, `is damaged: ${key} is not a string`);
    return found;
  };
  const number = (key: string): number => {
    const found = value[key];
    if (typeof found !== 'number' || !Number.isSafeInteger(found) || found < 0) {
      throw bad(path, `is damaged: ${key} is not a number`);
    }
    return found;
  };
  const { disks } = value;
  if (!Array.isArray(disks)) throw bad(path, 'is damaged: disks is not a list');
  return {
    format: 'xlsnap-journal',
    version: 1,
    pid: number('pid'),
    boot: text('boot'),
    created: text('created'),
    name: text('name'),
    domain: text('domain'),
    domid: number('domid'),
    uuid: text('uuid'),
    memoryPath: text('memoryPath'),
    ...(value['madeDirectory'] === undefined ? {} : { madeDirectory: text('madeDirectory') }),
    disks: disks.map((disk: unknown, i) => {
      try {
        return checkedDisk(path, `disks[${i}]`, disk);
      } catch {
        throw bad(path, `is damaged: disks[${i}] is no disk of a snapshot`);
      }
    }),
  };
}

function toStep(value: unknown): JournalStep | undefined {
  if (!isRecord(value)) return undefined;
  const { step, inode, on, hold, path, sha256, message } = value;
  switch (step) {
    case 'opened':
      return typeof inode === 'number' ? { step, inode } : undefined;
    case 'log-dirty':
      return typeof on === 'boolean' ? { step, on } : undefined;
    case 'hold':
      return isHold(hold) ? { step, hold } : undefined;
    case 'text':
      return typeof path === 'string' && typeof sha256 === 'string' ? { step, path, sha256 } : undefined;
    case 'problem':
      return typeof message === 'string' ? { step, message } : undefined;
    case 'disks':
    case 'whole':
    case 'undoing':
      return { step };
    default:
      return undefined;
  }
}

function isHold(value: unknown): value is HoldState {
  if (!isRecord(value)) return false;
  const { pauses, pending, asked, suspended, stopped } = value;
  return (
    typeof pauses === 'number' &&
    Number.isSafeInteger(pauses) &&
    pauses >= 0 &&
    // Xen counts in 32 bits; a loop over more would not end.
    pauses < 1e6 &&
    (pending === undefined || pending === 'pause' || pending === 'unpause') &&
    typeof asked === 'boolean' &&
    typeof suspended === 'boolean' &&
    typeof stopped === 'boolean'
  );
}

function bad(path: string, problem: string, hint?: string): JournalError {
  return new JournalError('JOURNAL', `the journal ${path} ${problem}`, {
    hint: hint ?? 'look into it: each line is an object in JSON, and says what a create did',
  });
}

/**
 * What a create has done to a guest, in a small file on tmpfs. Whoever resumes the guest for a process that has exited finds
 * it there, also when the storage with the journal hangs. It says nothing about disks and files: those are in the journal.
 */
import { createHash } from 'node:crypto';
import {
  appendFileSync,
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { toDomid } from '../../core/brand.ts';
import { EnvironmentError, errnoCode, OutputError } from '../../core/errors.ts';
import { isRecord } from '../../core/guards.ts';
import { RUN_DIRECTORY, runDirectory } from '../../core/run-directory.ts';
import { bootId, isOfThisBoot } from '../journal/file.ts';
import type { Host } from '../ports.ts';
import { isGone } from './gone.ts';
import { type HoldState, isHold } from './hold.ts';

export interface HoldHead {
  /** Absolute path of the create's journal. */
  readonly journal: string;
  readonly domid: number;
  readonly uuid: string;
  readonly domain: string;
  readonly type: 'pv' | 'pvh' | 'hvm';
}

/** One that was found. */
export interface FoundHold extends HoldHead {
  readonly path: string;
  readonly hold: HoldState | undefined;
  readonly logDirty: boolean;
}

const PREFIX = 'hold-';

/** The record of a running create. */
export class HoldRecord {
  readonly #path: string;
  #fd: number | undefined;

  private constructor(path: string, fd: number) {
    this.#path = path;
    this.#fd = fd;
  }

  /** @throws {EnvironmentError} If it already exists, or cannot be created */
  static create(host: Pick<Host, 'runDirectory'>, head: HoldHead): HoldRecord {
    const path = join(runDirectory(host.runDirectory), nameOf(head.journal));
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_APPEND;
    try {
      const record = new HoldRecord(path, openSync(path, flags, 0o600));
      record.#write({ format: 'xlsnap-hold', version: 1, boot: bootId(), pid: process.pid, ...head });
      return record;
    } catch (cause) {
      throw new EnvironmentError('HOLD_RECORD', `cannot create ${path}`, {
        cause,
        hint:
          errnoCode(cause) === 'EEXIST'
            ? 'an earlier create was killed: run xlsnap recover'
            : 'is /run full?',
      });
    }
  }

  /**
   * In this thread: it must be there before what it says takes effect.
   * @throws {OutputError} If it cannot be written
   */
  note(line: { readonly hold: HoldState } | { readonly logDirty: boolean }): void {
    try {
      this.#write(line);
    } catch (cause) {
      throw new OutputError('HOLD_RECORD', `cannot write ${this.#path}`, {
        cause,
        hint: 'is /run full?',
      });
    }
  }

  remove(): void {
    this.close();
    rmSync(this.#path, { force: true });
  }

  /** It stays for `recoverSnapshot`. */
  close(): void {
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
  }

  #write(value: object): void {
    if (this.#fd !== undefined) writeSync(this.#fd, `${JSON.stringify(value)}\n`);
  }
}

/** Reads a journal's record, if it is of this boot. */
export function findHold(host: Pick<Host, 'runDirectory'>, journal: string): FoundHold | undefined {
  return readHold(holdPath(host, journal));
}

/** Returns the path of a journal's record. */
export function holdPath(host: Pick<Host, 'runDirectory'>, journal: string): string {
  return join(host.runDirectory ?? RUN_DIRECTORY, nameOf(journal));
}

/** Reads all records of this boot. */
export function findHolds(host: Pick<Host, 'runDirectory'>): readonly FoundHold[] {
  const directory = host.runDirectory ?? RUN_DIRECTORY;
  let names: readonly string[];
  try {
    names = readdirSync(directory);
  } catch {
    return [];
  }
  return names
    .filter((name) => name.startsWith(PREFIX))
    .sort()
    .map((name) => readHold(join(directory, name)))
    .filter((hold) => hold !== undefined);
}

/**
 * Notes that the guest's log is off, for whoever comes next.
 * @throws {OutputError} If it cannot be written
 */
export function noteLogOff({ path }: FoundHold): void {
  try {
    appendFileSync(path, `${JSON.stringify({ logDirty: false })}\n`);
  } catch (cause) {
    throw new OutputError('HOLD_RECORD', `cannot write ${path}`, { cause });
  }
}

/**
 * Tells whether the domain that a record is about no longer exists, so that there is nothing to undo. A reboot gives it another
 * domid.
 */
export async function isOver(
  { hypervisor }: Pick<Host, 'hypervisor'>,
  { domid, uuid }: FoundHold,
): Promise<boolean> {
  const vitals = await hypervisor.vitals(toDomid(domid));
  return isGone(vitals) || vitals?.uuid !== uuid;
}

/**
 * Removes what is left of an earlier record of a journal that has just been created, where nothing can be undone by it: its
 * domain is gone, or its process was killed before it wrote the first line.
 */
export async function removeStaleHold(
  host: Pick<Host, 'hypervisor' | 'runDirectory'>,
  journal: string,
): Promise<void> {
  const found = findHold(host, journal);
  if (found === undefined) rmSync(holdPath(host, journal), { force: true });
  else if (await isOver(host, found)) removeHold(found);
}

export function removeHold({ path }: FoundHold): void {
  rmSync(path, { force: true });
}

function nameOf(journal: string): string {
  return `${PREFIX}${createHash('sha256').update(journal).digest('hex').slice(0, 32)}`;
}

function readHold(path: string): FoundHold | undefined {
  let lines: readonly unknown[];
  try {
    lines = readFileSync(path, 'utf8').split('\n').map(parse);
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return undefined;
    throw error;
  }
  const [head, ...steps] = lines;
  if (!isRecord(head) || head['format'] !== 'xlsnap-hold' || !isOfThisBoot(head)) return undefined;
  const { journal, domid, uuid, domain, type } = head;
  if (typeof journal !== 'string' || typeof domid !== 'number' || typeof uuid !== 'string') return undefined;
  if (typeof domain !== 'string' || (type !== 'pv' && type !== 'pvh' && type !== 'hvm')) return undefined;
  let hold: HoldState | undefined;
  let logDirty = false;
  for (const step of steps) {
    if (!isRecord(step)) continue;
    if (isHold(step['hold'])) hold = step['hold'];
    if (typeof step['logDirty'] === 'boolean') logDirty = step['logDirty'];
  }
  return { path, journal, domid, uuid, domain, type, hold, logDirty };
}

function parse(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}

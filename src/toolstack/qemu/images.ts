/** Runs qemu-img, for images that are not in use (and `info` for all). */

import { open, rm, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, errnoCode, InterruptedError, OutputError, throwIfAborted } from '../../core/errors.ts';
import { isRecord } from '../../core/guards.ts';
import { parseJson } from '../../core/json.ts';
import { chainBelow, type StatedImage } from '../../snapshot/images/chain.ts';
import type { ImageInfo, Images, ImageTag, OnProgress } from '../../snapshot/ports.ts';
import { type ProgramResult, runProgram, runUnkilled } from '../process/run.ts';
import { findImageWorker } from './image-workers.ts';

/**
 * Time limit for commands that only read, in milliseconds: an image's tables may be long, and its disk slow.
 */
const TIMEOUT_MS = 300_000;
/**
 * How long to wait, in milliseconds, for another qemu-img that was given up and still works on the same
 * image.
 */
const BUSY_MS = 30_000;
const POLL_MS = 100;

/** The result of `qemu-img check`. */
export interface ImageCheck {
  readonly corruptions: number;
  /** Number of clusters that are allocated but belong to nothing. They only waste space. */
  readonly leaks: number;
}

/**
 * Implements the port `Images` with qemu-img. Paths are made absolute, so none is taken for an option or a
 * protocol.
 *
 * A qemu-img that only reads is killed when it takes too long, or at an interruption. One that writes is
 * never killed, since it would leave the image half changed. It may take any time; after an interruption it
 * is waited for, within a limit, and then the error says that it is still running. Whoever changes the image
 * next waits for it.
 * @throws {DiskError} If qemu-img fails; with its own words, by each method.
 * @throws {EnvironmentError} If there is no qemu-img.
 * @throws {InterruptedError} If the signal aborted.
 */
export class QemuImages implements Images {
  readonly #signal: AbortSignal | undefined;
  readonly #abortMs: number | undefined;

  /**
   * Takes options.
   * @param options `signal`: interrupts; `abortMs`: how long to wait after that for one that writes. Default:
   * 60,000.
   */
  constructor(options: { signal?: AbortSignal | undefined; abortMs?: number | undefined } = {}) {
    this.#signal = options.signal;
    this.#abortMs = options.abortMs;
  }

  /** Does what `Images.info` says. */
  async info(path: string, format: string): Promise<ImageInfo | undefined> {
    const image = resolve(path);
    try {
      const found = await stat(image);
      if (!found.isFile() && !found.isBlockDevice()) {
        throw new DiskError('IMAGE_FORMAT', `${image} is neither a file nor a block device`);
      }
    } catch (error) {
      if (error instanceof DiskError) throw error;
      if (errnoCode(error) === 'ENOENT') return undefined;
      throw new DiskError('IMAGE_UNREADABLE', `cannot access ${image}`, { cause: error });
    }
    const args = ['info', '--output=json', '--force-share', '-f', format, image] as const;
    const answer = await this.#succeed(args, image);
    const info = toInfo(image, jsonOf(answer.stdout));
    if (info === undefined) {
      throw new DiskError('QEMU_IMG', `qemu-img info ${image} did not describe an image`);
    }
    return info;
  }

  /**
   * Applies an internal snapshot.
   * @throws {DiskError} Also if there is no such tag, or it is another snapshot's id.
   */
  async applyTag(path: string, tag: string): Promise<void> {
    await this.#free(path);
    await this.#requireTag(path, tag);
    await this.#change(['snapshot', '-q', '-a', tag, qcow2(path)], path);
  }

  /**
   * Creates an internal snapshot.
   * @throws {DiskError} Also if the tag exists: qemu-img would create a second one of that name.
   */
  async createTag(path: string, tag: string): Promise<void> {
    await this.#free(path);
    const snapshots = await this.#snapshots(path);
    if (snapshots.some(({ id, name }) => name === tag || id === tag)) {
      throw new DiskError('TAG_EXISTS', `${path} already has a snapshot "${tag}"`);
    }
    await this.#change(['snapshot', '-q', '-c', tag, qcow2(path)], path);
  }

  /**
   * Deletes an internal snapshot.
   * @throws {DiskError} Also if there is no such tag, or it is another snapshot's id.
   */
  async deleteTag(path: string, tag: string): Promise<void> {
    await this.#free(path);
    await this.#requireTag(path, tag);
    await this.#change(['snapshot', '-q', '-d', tag, qcow2(path)], path);
  }

  /**
   * Creates a qcow2 image that reads as `backing` until it is written to.
   * @throws {OutputError} If the file exists already or cannot be created.
   */
  async createOverlay(
    path: string,
    backing: { readonly path: string; readonly format: string },
  ): Promise<void> {
    const overlay = resolve(path);
    await this.#requireStated(backing);
    try {
      // qemu-img replaces existing files, so make sure that it replaces only what we created.
      await (await open(overlay, 'wx', 0o600)).close();
    } catch (cause) {
      throw new OutputError('OVERLAY', `cannot create ${overlay}`, { cause });
    }
    try {
      const base = ['-b', resolve(backing.path), '-F', backing.format];
      await this.#change(['create', '-q', '-f', 'qcow2', ...base, overlay], overlay);
    } catch (error) {
      await rm(overlay, { force: true });
      throw error;
    }
  }

  /** Merges an overlay into its backing file. */
  async commitOverlay(
    path: string,
    { onProgress }: { readonly onProgress?: OnProgress | undefined } = {},
  ): Promise<void> {
    const overlay = resolve(path);
    await this.#free(overlay);
    await this.#requireStated({ path: overlay, format: 'qcow2' });
    const total = (await stat(overlay)).blocks * 512;
    const onText = onProgress && ((text: string) => reportPercent(text, total, onProgress));
    // Not quiet if there is progress to report.
    const how = onText === undefined ? '-q' : '-p';
    await this.#change(['commit', how, '-f', 'qcow2', overlay], overlay, onText);
  }

  /** Does what `Images.worker` says. */
  worker(path: string): Promise<number | undefined> {
    return findImageWorker([resolve(path), qcow2(path)]);
  }

  /** Checks a qcow2 image's tables, without changing anything. */
  async check(path: string): Promise<ImageCheck> {
    await this.#requireStated({ path, format: 'qcow2' });
    const args = ['check', '--output=json', qcow2(path)];
    const answer = await this.#run(args);
    // 2 means corruption, 3 leaks only; both come with a report.
    if (![0, 2, 3].includes(answer.status)) throw failure('check', path, answer);
    const report = jsonOf(answer.stdout);
    if (!isRecord(report)) throw failure('check', path, answer);
    const { corruptions, leaks } = report;
    return {
      corruptions: typeof corruptions === 'number' ? corruptions : 0,
      leaks: typeof leaks === 'number' ? leaks : 0,
    };
  }

  /**
   * Checks that every image states its backing file's format: qemu-img opens the images below too, and would
   * guess.
   */
  async #requireStated(image: StatedImage, info?: ImageInfo): Promise<void> {
    for await (const _ of chainBelow(this, image, { info }));
  }

  async #requireTag(path: string, tag: string): Promise<void> {
    const snapshots = await this.#snapshots(path);
    const same = snapshots.filter(({ name }) => name === tag);
    if (same.length === 0) {
      const names = snapshots.map(({ name }) => `"${name}"`).join(', ');
      throw new DiskError('NO_TAG', `${path} has no snapshot "${tag}"`, {
        hint: names === '' ? 'it has no snapshots' : `it has ${names}`,
      });
    }
    // qemu-img takes an id for a name, and uses the first of several.
    if (same.length > 1 || snapshots.some(({ id, name }) => id === tag && name !== tag)) {
      throw new DiskError('TAG_AMBIGUOUS', `"${tag}" matches several snapshots in ${path}`, {
        hint: 'list them with `qemu-img snapshot -l`',
      });
    }
  }

  /** Returns the tags of an image that is about to be changed. */
  async #snapshots(path: string): Promise<readonly ImageTag[]> {
    const info = await this.info(path, 'qcow2');
    if (info === undefined) throw new DiskError('NO_IMAGE', `there is no image ${path}`);
    await this.#requireStated({ path, format: 'qcow2' }, info);
    return info.snapshots;
  }

  async #run(args: readonly string[]): Promise<ProgramResult> {
    return await runProgram('qemu-img', args, { timeoutMs: TIMEOUT_MS, signal: this.#signal });
  }

  /**
   * Waits until no other qemu-img works on the image.
   * @throws {DiskError} IMAGE_BUSY if one still does after a while.
   */
  async #free(path: string): Promise<void> {
    const deadline = performance.now() + BUSY_MS;
    for (let pid = await this.worker(path); pid !== undefined; pid = await this.worker(path)) {
      throwIfAborted(this.#signal);
      if (performance.now() > deadline) throw busy(path, pid);
      await sleep(POLL_MS);
    }
  }

  /** Runs a command that writes. */
  async #change(
    args: readonly [string, ...string[]],
    path: string,
    onText?: (stdout: string) => void,
  ): Promise<void> {
    const limits = { signal: this.#signal, abortMs: this.#abortMs };
    const result = await runUnkilled('qemu-img', args, { ...limits, onText });
    if (!result.ended) {
      throw new InterruptedError(
        'INTERRUPTED',
        `interrupted; qemu-img ${args[0]} (pid ${result.pid}) is still working on ${path}`,
        { hint: 'wait until it exits; the next command that changes the image waits for it too' },
      );
    }
    if (result.status !== 0) throw failure(args[0], path, result);
  }

  async #succeed(args: readonly [string, ...string[]], path: string): Promise<ProgramResult> {
    const result = await this.#run(args);
    if (result.status !== 0) throw failure(args[0], path, result);
    return result;
  }
}

/** Reports the last percentage of `qemu-img -p`, which prints `    (12.34/100%)\r`. */
function reportPercent(text: string, total: number, onProgress: OnProgress): void {
  const last = [...text.matchAll(/\(([0-9.]+)\/100%\)/g)].at(-1)?.[1];
  if (last !== undefined) onProgress(Math.round((total * Number(last)) / 100), total);
}

/** Names the image as qcow2, whatever its content looks like: `qemu-img snapshot` has no `-f`. */
function qcow2(path: string): string {
  return `json:${JSON.stringify({ driver: 'qcow2', file: { filename: resolve(path) } })}`;
}

/** Messages of QEMU's drivers about an image that does not have the stated format. */
const OTHER_FORMAT = /not in \S+ format|invalid VPC image|invalid VMDK/i;

function busy(path: string, pid: number): DiskError {
  return new DiskError('IMAGE_BUSY', `qemu-img (pid ${pid}) is still working on ${path}`, {
    hint: 'wait until it exits, then run the same command again',
  });
}

function failure(
  operation: string,
  path: string,
  { status, stderr }: Pick<ProgramResult, 'status' | 'stderr'>,
): DiskError {
  const words = stderr.trim().replace(/^qemu-img: /, '');
  return new DiskError(
    OTHER_FORMAT.test(words) ? 'IMAGE_FORMAT' : 'QEMU_IMG',
    `qemu-img ${operation} failed on ${path}: ${words}`,
    {
      data: { operation, path, status, stderr: words },
    },
  );
}

function jsonOf(text: string): unknown {
  try {
    return parseJson(text);
  } catch {
    return undefined;
  }
}

function toInfo(path: string, answer: unknown): ImageInfo | undefined {
  if (!isRecord(answer)) return undefined;
  const { format, encrypted, snapshots } = answer;
  const virtualSize = answer['virtual-size'];
  if (typeof format !== 'string' || typeof virtualSize !== 'number') return undefined;
  const list = Array.isArray(snapshots) ? snapshots.flatMap(toSnapshot) : [];
  const backing = answer['full-backing-filename'] ?? answer['backing-filename'];
  const backingFormat = answer['backing-filename-format'];
  const specific = answer['format-specific'];
  const data = isRecord(specific) ? specific['data'] : undefined;
  return {
    path,
    format,
    virtualSize,
    tags: list.map(({ name }) => name),
    backing: typeof backing === 'string' ? plainPath(backing) : undefined,
    backingFormat: typeof backingFormat === 'string' ? backingFormat : undefined,
    snapshots: list,
    encrypted: encrypted === true,
    externalData: isRecord(data) && data['data-file'] !== undefined,
  };
}

function toSnapshot(value: unknown): ImageTag[] {
  if (!isRecord(value)) return [];
  const { id, name } = value;
  if (typeof id !== 'string' || typeof name !== 'string') return [];
  const number = (key: string): number => {
    const found = value[key];
    return typeof found === 'number' ? found : 0;
  };
  const vmClock = BigInt(number('vm-clock-sec')) * 1_000_000_000n + BigInt(number('vm-clock-nsec'));
  return [
    {
      id,
      name,
      dateSec: number('date-sec'),
      dateNsec: number('date-nsec'),
      vmClockNsec: String(vmClock),
      vmStateSize: number('vm-state-size'),
    },
  ];
}

/**
 * Returns the path in a file name as QEMU writes it: plain, after `file:`, or in a `json:` object, which QEMU
 * uses if an image was opened with further options. Other names are returned unchanged.
 */
export function plainPath(name: string): string {
  if (name.startsWith('file:')) return name.slice('file:'.length);
  if (!name.startsWith('json:')) return name;
  let at = jsonOf(name.slice('json:'.length));
  while (isRecord(at)) {
    const filename = at['filename'] ?? at['file.filename'];
    if (typeof filename === 'string') return filename;
    at = at['file'];
  }
  return name;
}

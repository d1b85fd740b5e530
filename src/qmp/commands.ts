/**
 * Typed versions of the commands that snapshots need. Only the parts of the answers that are used are checked
 * and kept.
 */
import type { Limits } from '../core/deadline.ts';
import { isRecord } from '../core/guards.ts';
import { givenUpSignal, isBounded, showProgress } from '../core/signs-of-life.ts';
import { QmpClient } from './client.ts';
import { QmpCommandError, QmpProtocolError } from './errors.ts';
import type { QmpListener } from './listener.ts';
import { type QemuVersion, type QmpEvent, toVersion } from './messages.ts';

/** A node of QEMU's block graph that holds an image (qapi: BlockDeviceInfo). */
export interface BlockNode {
  readonly nodeName: string;
  /** The driver: `qcow2`, `raw`, `file`, … */
  readonly driver: string;
  /** The image's file name as QEMU writes it: a path or a `json:` pseudo-name. */
  readonly file: string;
  readonly readOnly: boolean;
  readonly encrypted: boolean;
  /** Whether the guest's data is in a separate file (qcow2's `data-file`). */
  readonly externalData: boolean;
  /** File names of the backing chain, nearest first, as far as QEMU reports them. */
  readonly backingFiles: readonly string[];
  /** Names of the internal snapshots. */
  readonly tags: readonly string[];
  /** Size that the guest sees, in bytes. */
  readonly virtualSize: number;
}

/** A disk or drive with a BlockBackend (qapi: BlockInfo). */
export interface BlockDevice {
  /** Name of the BlockBackend; empty for a xen-block device. */
  readonly device: string;
  /** QOM path or id of the guest's device. */
  readonly qdev: string | undefined;
  /** The medium in the drive; undefined if it is empty. */
  readonly inserted: BlockNode | undefined;
}

/** A block job (qapi: BlockJobInfo). */
export interface BlockJob {
  /** The job's id, usually the name of its device. */
  readonly id: string;
  /** `commit`, `stream`, `mirror`, `backup`, … */
  readonly type: string;
  readonly status: string;
  /** Progress so far, of `length`. A commit counts bytes. */
  readonly offset: number;
  /** Estimate of the whole; it may grow. */
  readonly length: number;
}

/** Actions of a transaction that take disk snapshots. */
export type TransactionAction =
  | {
      readonly type: 'blockdev-snapshot-internal-sync';
      /** `device` may also be a node name. */
      readonly data: { readonly device: string; readonly name: string };
    }
  | {
      readonly type: 'blockdev-snapshot-sync';
      readonly data: {
        readonly 'node-name': string;
        /** Path of the overlay, which QEMU creates; an existing file is overwritten. */
        readonly 'snapshot-file': string;
        readonly format: 'qcow2';
        readonly 'snapshot-node-name': string;
      };
    };

/** Stops the machine's devices and vCPUs. */
export async function stop(client: QmpClient, limits?: Limits): Promise<void> {
  await client.execute('stop', undefined, limits);
}

/** Undoes `stop`. */
export async function cont(client: QmpClient, limits?: Limits): Promise<void> {
  await client.execute('cont', undefined, limits);
}

export async function queryStatus(
  client: QmpClient,
  limits?: Limits,
): Promise<{ readonly status: string; readonly running: boolean }> {
  const answer = await client.execute('query-status', undefined, limits);
  if (!isRecord(answer) || typeof answer['status'] !== 'string' || typeof answer['running'] !== 'boolean') {
    throw unexpected('query-status');
  }
  return { status: answer['status'], running: answer['running'] };
}

export async function queryVersion(client: QmpClient, limits?: Limits): Promise<QemuVersion> {
  const version = toVersion(await client.execute('query-version', undefined, limits));
  if (version === undefined) throw unexpected('query-version');
  return version;
}

/**
 * Returns why QEMU could not migrate the guest now: devices whose state it cannot save, and other reasons
 * (qapi: MigrationInfo, `blocked-reasons`; since QEMU 6.0).
 */
export async function queryBlockedReasons(client: QmpClient, limits?: Limits): Promise<readonly string[]> {
  const answer = await client.execute('query-migrate', undefined, limits);
  if (!isRecord(answer)) throw unexpected('query-migrate');
  const reasons = answer['blocked-reasons'] ?? [];
  if (!Array.isArray(reasons)) throw unexpected('query-migrate');
  return reasons.map(String);
}

/** Returns all drives of the guest. */
export async function queryBlock(client: QmpClient, limits?: Limits): Promise<BlockDevice[]> {
  return list('query-block', await client.execute('query-block', undefined, limits), (entry) => {
    const { device, qdev, inserted } = entry;
    if (typeof device !== 'string') return undefined;
    const node = inserted === undefined ? undefined : toNode(inserted);
    if (inserted !== undefined && node === undefined) return undefined;
    return { device, qdev: typeof qdev === 'string' ? qdev : undefined, inserted: node };
  });
}

/** Returns all named nodes, including those below other nodes. */
export async function queryNamedBlockNodes(client: QmpClient, limits?: Limits): Promise<BlockNode[]> {
  const command = 'query-named-block-nodes';
  // Unless flat, each node's answer has the whole chain below it, which grows with the square of its length.
  return list(command, await client.execute(command, { flat: true }, limits), toNode);
}

export async function queryBlockJobs(client: QmpClient, limits?: Limits): Promise<BlockJob[]> {
  const command = 'query-block-jobs';
  return list(
    command,
    await client.execute(command, undefined, limits),
    ({ device, type, status, offset, len }) =>
      typeof device === 'string' && typeof type === 'string'
        ? {
            id: device,
            type,
            status: typeof status === 'string' ? status : 'unknown',
            offset: typeof offset === 'number' ? offset : 0,
            length: typeof len === 'number' ? len : 0,
          }
        : undefined,
  );
}

/**
 * Carries out all actions or none.
 * @throws {QmpCommandError} If one of them fails; then no image has changed.
 */
export async function transaction(
  client: QmpClient,
  actions: readonly TransactionAction[],
  limits?: Limits,
): Promise<void> {
  await client.execute('transaction', { actions }, limits);
}

/**
 * Deletes an internal snapshot.
 * @param node a node name
 */
export async function deleteInternalSnapshot(
  client: QmpClient,
  node: string,
  tag: string,
  limits?: Limits,
): Promise<void> {
  await client.execute('blockdev-snapshot-delete-internal-sync', { device: node, name: tag }, limits);
}

/**
 * Deletes a node that belongs to the monitor (`blockdev-add`), with those below it that nobody else uses.
 * @throws {QmpCommandError} If there is no such node, or anything uses it; nothing has changed then
 */
export async function deleteNode(client: QmpClient, node: string, limits?: Limits): Promise<void> {
  await client.execute('blockdev-del', { 'node-name': node }, limits);
}

/**
 * Returns the name that the guest's configuration has for a xen-block device: `xvda`.
 * @param qdev its QOM path or id
 * @returns `undefined` if it is another kind of device
 */
export async function queryVdev(
  client: QmpClient,
  qdev: string,
  limits?: Limits,
): Promise<string | undefined> {
  try {
    const answer = await client.execute('qom-get', { path: qdev, property: 'vdev' }, limits);
    // QEMU appends the number of the partition, of a whole disk too: `xvda0`.
    return typeof answer === 'string' ? answer.replace(/^((?:xvd|hd|sd)[a-z]+)0$/, '$1') : undefined;
  } catch (error) {
    if (error instanceof QmpCommandError) return undefined;
    throw error;
  }
}

/** Who watches a job that merges an overlay. */
export interface CommitWatch {
  /** Called about twice a second, while the job works. */
  readonly onProgress?: ((job: BlockJob) => void) | undefined;
  /** Awaited when all is copied, before the disk continues on the backing image. If it rejects, the job is cancelled. */
  readonly beforeSwitch?: (() => Promise<void>) | undefined;
}

/**
 * Merges an overlay, the top node of a disk, into its backing image and continues on that. The guest may run.
 * The overlay's file is no longer used then, but not removed. If an earlier call left a job, this one waits
 * for it and completes it once ready, since QEMU would refuse a second job.
 * @param base the backing image right below the overlay, as QEMU names the file; without it QEMU would merge
 * the whole chain
 * @param limits `timeoutMs` applies to each step of the job. Default: no limit.
 * @throws {QmpCommandError} If QEMU refuses, or the job fails; the disk then still uses the overlay.
 */
export async function commitOverlay(
  client: QmpClient,
  node: string,
  base: string,
  limits: Limits = {},
  watch: CommitWatch = {},
): Promise<void> {
  // QEMU names nodes `#block123` itself, and takes no such job id.
  const jobId = `commit-${node.replace(/[^\w.-]/g, '_')}`;
  using events = client.listen(['BLOCK_JOB_READY', 'BLOCK_JOB_COMPLETED', 'BLOCK_JOB_CANCELLED']);
  const args = { 'job-id': jobId, device: node, base };
  // Asked only now that we listen: a job that ends in between sends its event.
  const left = (await queryBlockJobs(client, limits)).find(({ id }) => id === jobId);
  if (left === undefined) await client.execute('block-commit', args, limits);
  let completed = false;
  async function complete(): Promise<void> {
    // An earlier job may become ready between our question and its answer. Its event then comes as well, and
    // QEMU would refuse to complete it twice.
    if (completed) return;
    completed = true;
    await watch.beforeSwitch?.();
    await client.execute('block-job-complete', { device: jobId }, limits);
  }
  try {
    if (left?.status === 'ready') await complete();
    // A job gets ready, then ends; one that fails ends at once.
    for (;;) {
      const { event, data } = await nextOf(client, jobId, events, limits, watch);
      if (data['device'] !== jobId) continue;
      if (event === 'BLOCK_JOB_READY') {
        await complete();
        continue;
      }
      const failure = event === 'BLOCK_JOB_CANCELLED' ? 'cancelled' : data['error'];
      if (failure !== undefined)
        throw new QmpCommandError('GenericError', String(failure), 'block-commit', args);
      return;
    }
  } catch (error) {
    await cancelJob(client, jobId);
    throw error;
  }
}

/** Time limit in milliseconds for an answer while a job is given up. */
const CANCEL_MS = 2000;
/** Interval in milliseconds between questions about a job's progress. */
const JOB_POLL_MS = 500;

/** Waits for the next event of a job. While the job's offset grows, reports that to whoever waits for the work. */
async function nextOf(
  client: QmpClient,
  jobId: string,
  events: QmpListener,
  limits: Limits,
  { onProgress }: CommitWatch,
): Promise<QmpEvent> {
  if (!isBounded() && onProgress === undefined) return await events.next(limits);
  const signals = [limits.signal, givenUpSignal()].filter((signal) => signal !== undefined);
  const next = events.next({ ...limits, signal: AbortSignal.any(signals) });
  let over = false;
  const settled = next.then(
    () => {},
    () => {},
  );
  void settled.then(() => {
    over = true;
  });
  let offset: number | undefined;
  while (!over) {
    let timer: NodeJS.Timeout | undefined;
    const pause = new Promise<void>((resolve) => {
      timer = setTimeout(resolve, JOB_POLL_MS);
    });
    await Promise.race([settled, pause]);
    clearTimeout(timer);
    if (over) break;
    const job = await queryBlockJobs(client, { timeoutMs: JOB_POLL_MS })
      .then((jobs) => jobs.find(({ id }) => id === jobId))
      .catch(() => undefined);
    if (job === undefined) continue;
    onProgress?.(job);
    if (offset !== undefined && job.offset !== offset) showProgress();
    offset = job.offset;
  }
  return await next;
}

/**
 * Cancels a job: one that nobody completes would block every later snapshot. A job that has ended no longer
 * exists. The caller may have closed the session when it gave up the work; then another session does it.
 */
async function cancelJob(client: QmpClient, jobId: string): Promise<void> {
  const limits = { timeoutMs: CANCEL_MS };
  try {
    await client.execute('block-job-cancel', { device: jobId }, limits);
  } catch {
    if (client.state !== 'closed') return;
    const fresh = await QmpClient.connect(client.path, limits).catch(() => undefined);
    await fresh?.execute('block-job-cancel', { device: jobId }, limits).catch(() => {});
    await fresh?.close();
  }
}

/**
 * Writes the devices' state to `filename`, which QEMU creates. Always with `live: false`: with `true`, QEMU
 * would give up its images, and no disk snapshot could follow.
 */
export async function saveDevicesState(client: QmpClient, filename: string, limits?: Limits): Promise<void> {
  await client.execute('xen-save-devices-state', { filename, live: false }, limits);
}

/** Makes QEMU report its own writes to guest memory to Xen's dirty log. HVM only. */
export async function setGlobalDirtyLog(client: QmpClient, enable: boolean, limits?: Limits): Promise<void> {
  await client.execute('xen-set-global-dirty-log', { enable }, limits);
}

function toNode(value: unknown): BlockNode | undefined {
  if (!isRecord(value) || !isRecord(value['image'])) return undefined;
  const { drv, file, ro, image, encrypted } = value;
  const nodeName = value['node-name'];
  const virtualSize = image['virtual-size'];
  if (typeof drv !== 'string' || typeof file !== 'string' || typeof ro !== 'boolean') return undefined;
  if (typeof virtualSize !== 'number') return undefined;
  return {
    nodeName: typeof nodeName === 'string' ? nodeName : '',
    driver: drv,
    file,
    readOnly: ro,
    encrypted: encrypted === true || image['encrypted'] === true,
    externalData: hasDataFile(image['format-specific']),
    backingFiles: backingFiles(image),
    tags: tags(image['snapshots']),
    virtualSize,
  };
}

function hasDataFile(specific: unknown): boolean {
  const data = isRecord(specific) ? specific['data'] : undefined;
  return isRecord(data) && data['data-file'] !== undefined;
}

function backingFiles(image: Readonly<Record<string, unknown>>): string[] {
  const files: string[] = [];
  let at: unknown = image;
  while (isRecord(at)) {
    const name = at['full-backing-filename'] ?? at['backing-filename'];
    if (typeof name !== 'string') break;
    files.push(name);
    at = at['backing-image'];
  }
  return files;
}

function tags(snapshots: unknown): string[] {
  if (!Array.isArray(snapshots)) return [];
  return snapshots.flatMap((entry: unknown) =>
    isRecord(entry) && typeof entry['name'] === 'string' ? [entry['name']] : [],
  );
}

function list<T>(
  command: string,
  answer: unknown,
  convert: (entry: Readonly<Record<string, unknown>>) => T | undefined,
): T[] {
  if (!Array.isArray(answer)) throw unexpected(command);
  return answer.map((entry: unknown) => {
    const converted = isRecord(entry) ? convert(entry) : undefined;
    if (converted === undefined) throw unexpected(command);
    return converted;
  });
}

function unexpected(command: string): QmpProtocolError {
  return new QmpProtocolError(`QEMU's answer to ${command} does not have the documented form`);
}

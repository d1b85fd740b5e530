/** Implements the port `Volumes` by LVM's commands, judged by their exit status and by what lvs says, never by their words. */
import { open, readFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { DiskError, EnvironmentError } from '../../core/errors.ts';
import { isRecord } from '../../core/guards.ts';
import { parseJson } from '../../core/json.ts';
import {
  type Pool,
  VOLUME_TAG,
  type Volume,
  type VolumeList,
  type Volumes,
} from '../../snapshot/storage/volumes.ts';
import { findProcess } from '../process/find.ts';
import { runProgram, runUnkilled } from '../process/run.ts';
import { writeBack } from './write-back.ts';

/** Time limit in milliseconds for a command that only reads: it waits for one that writes. */
const READ_MS = 60_000;
/** How long to wait for a command that writes, in milliseconds; it is never killed. */
const WRITE_MS = 60_000;
/** How long to wait for one that does nothing, while a guest is stopped for it: it waits for something that hangs. */
const IDLE_MS = 10_000;
/** How long to wait for a command of a killed xlsnap. */
const WORKER_MS = 30_000;
const POLL_MS = 100;

const COLUMNS = [
  'vg_name',
  'lv_name',
  'lv_uuid',
  'lv_size',
  'lv_layout',
  'lv_role',
  'lv_active',
  'lv_device_open',
  'lv_merging',
  'lv_tags',
  'origin_uuid',
  'pool_lv',
  'snap_percent',
  'lv_snapshot_invalid',
] as const;

/** What is asked for beside that when everything is listed. */
const POOL_COLUMNS = ['data_percent', 'metadata_percent', 'lv_health_status', 'vg_free'] as const;

export class Lvm implements Volumes {
  readonly #devices: string;
  readonly #proc: string;
  readonly #writeMs: number;
  readonly #idleMs: number;

  /**
   * @param options for tests: where the kernel describes block devices and processes, how long to wait for a command that writes,
   * and for one that does nothing while a guest is stopped
   */
  constructor(
    options: {
      readonly devices?: string;
      readonly proc?: string;
      readonly writeMs?: number;
      readonly idleMs?: number;
    } = {},
  ) {
    this.#devices = options.devices ?? '/sys/dev/block';
    this.#proc = options.proc ?? '/proc';
    this.#writeMs = options.writeMs ?? WRITE_MS;
    this.#idleMs = options.idleMs ?? IDLE_MS;
  }

  async uuidAt({
    major,
    minor,
  }: {
    readonly major: number;
    readonly minor: number;
  }): Promise<string | undefined> {
    const file = join(this.#devices, `${major}:${minor}`, 'dm', 'uuid');
    const text = await readFile(file, 'utf8').catch(() => '');
    return lvUuid(text.trim());
  }

  async list(): Promise<VolumeList> {
    const rows = await this.#lvs(undefined, [...COLUMNS, ...POOL_COLUMNS]);
    const pools = rows.filter(({ lv_layout = '' }) => lv_layout.split(',').includes('pool'));
    return {
      volumes: rows.map(toVolume),
      pools: new Map(pools.map((row) => [`${row['vg_name']}/${row['lv_name']}`, toPool(row)])),
      free: new Map(rows.map((row) => [row['vg_name'] ?? '', Number(row['vg_free'])])),
    };
  }

  async byName(group: string, name: string): Promise<Volume | undefined> {
    await this.#waitForWorker(group);
    return await this.#volume(`vg_name="${checked(group)}" && lv_name="${checked(name)}"`);
  }

  async obstacle(): Promise<string | undefined> {
    const pid = await findProcess(this.#proc, async (read) =>
      ['systemd-udevd', 'udevd'].includes((await read('comm')).trim()),
    );
    return pid === undefined ? 'udevd does not run, and LVM waits for it' : undefined;
  }

  async flush({ group, name }: Pick<Volume, 'group' | 'name'>): Promise<void> {
    const path = `/dev/${checked(group)}/${checked(name)}`;
    try {
      // Without creating a file in /dev if there is no such device.
      await using file = await open(path, 'r');
      await file.datasync();
    } catch (cause) {
      throw new DiskError('FLUSH', `cannot write out what is cached of ${path}`, { cause });
    }
  }

  async snapshotThin(
    group: string,
    origin: string,
    name: string,
    { keep }: { readonly keep: boolean },
  ): Promise<void> {
    // Nothing becomes active, so there is nothing to wait for udev for.
    const how = keep ? ['--addtag', VOLUME_TAG] : ['-an', '-kn'];
    const args = ['-y', '--noudevsync', ...how, '-s', '-n', checked(name), full(group, origin)];
    await this.#change('lvcreate', args, keep ? { idleMs: this.#idleMs } : {});
  }

  async createStore(group: string, name: string, bytes: number): Promise<void> {
    const size = ['-L', `${Math.ceil(bytes / 1024)}k`];
    // Active until its beginning is wiped; LVM does not accept `-an` with that.
    await this.#change('lvcreate', [
      '-y',
      '--addtag',
      VOLUME_TAG,
      ...size,
      '-n',
      checked(name),
      checked(group),
    ]);
    await this.deactivate(group, name);
  }

  async snapshotThick(
    group: string,
    origin: string,
    store: string,
    { keep }: { readonly keep: boolean },
  ): Promise<void> {
    const args = ['-y', '--noudevsync', '--type', 'snapshot', '-Zn', full(group, origin), full(group, store)];
    await this.#change('lvconvert', args, keep ? { idleMs: this.#idleMs } : {});
  }

  async settle(): Promise<void> {
    await runProgram('udevadm', ['settle'], { timeoutMs: READ_MS });
  }

  async writeBack(group: string, snapshot: string, origin: string): Promise<void> {
    const volume = await this.byName(group, origin);
    if (volume === undefined) throw new DiskError('NO_VOLUME', `there is no volume ${group}/${origin}`);
    const [from, to] = [device(group, snapshot), device(group, origin)];
    const store = `${from}-cow`;
    /*
     * What dom0 has cached of a volume that blkback wrote to is out of date: blkback's requests go past the page cache. Here that
     * cache is emptied, and not bypassed by O_DIRECT, for which Node cannot align its buffers. It is as good: nobody has the volume
     * open any more, so whatever is read after that comes from the disk, and nothing writes below the cache in the meantime. All
     * that is written are whole blocks, and fsync reports an error of any of them. Then the cache is emptied again, since the
     * next guest writes past it.
     */
    for (const one of [from, store, to]) await dropCache(one);
    await writeBack(from, store, to, volume.size);
    await dropCache(to);
  }

  async rename(group: string, from: string, to: string): Promise<void> {
    await this.#change('lvrename', [checked(group), checked(from), checked(to)]);
  }

  async activate(group: string, name: string): Promise<void> {
    await this.#change('lvchange', ['-ay', '-K', full(group, name)]);
  }

  async deactivate(group: string, name: string): Promise<void> {
    await this.#change('lvchange', ['-an', full(group, name)]);
  }

  async remove({ group, name, uuid }: Pick<Volume, 'group' | 'name' | 'uuid'>): Promise<void> {
    const same = ['-S', `lv_uuid="${checked(uuid)}"`];
    await this.#change('lvremove', ['-f', '-y', ...same, full(group, name)]);
  }

  async #volume(selection: string): Promise<Volume | undefined> {
    const [row] = await this.#lvs(selection, COLUMNS);
    return row === undefined ? undefined : toVolume(row);
  }

  /** @param selection default: all */
  async #lvs(selection: string | undefined, columns: readonly string[]): Promise<readonly Row[]> {
    const form = ['--reportformat', 'json', '--units', 'b', '--nosuffix', '-o', columns.join(',')];
    const args = selection === undefined ? form : [...form, '-S', selection];
    const { status, stdout, stderr } = await runProgram('lvs', args, {
      timeoutMs: READ_MS,
      env: cleanEnv(),
    });
    const rows = status === 0 ? toRows(stdout) : undefined;
    if (rows !== undefined) return rows;
    throw new EnvironmentError('LVM', `lvs failed with exit status ${status}: ${stderr.trim()}`);
  }

  /**
   * @param options `idleMs`: how long to wait while it does nothing
   * @throws {DiskError} If it fails, or is no longer waited for (`LVM_HANGS`)
   */
  async #change(
    program: string,
    args: readonly string[],
    { idleMs }: { readonly idleMs?: number } = {},
  ): Promise<void> {
    const result = await runUnkilled(program, ['-qq', ...args], {
      timeoutMs: this.#writeMs,
      idleMs,
      env: cleanEnv(),
    });
    const line = [program, ...args].join(' ');
    if (!result.ended) {
      const how =
        result.idle && idleMs !== undefined
          ? `has done nothing for ${idleMs / 1000} s, and the guest is stopped for it`
          : `has not ended within ${this.#writeMs / 1000} s`;
      throw new DiskError('LVM_HANGS', `${line} (pid ${result.pid}) ${how}`, {
        hint: 'find out what it waits for: udevd, another command of LVM, or the disk below; then run xlsnap recover',
      });
    }
    if (result.status === 0) return;
    throw new DiskError('LVM', `${line} failed with exit status ${result.status}: ${result.stderr.trim()}`);
  }

  /**
   * Waits for a command that a killed xlsnap has started on a group: one that has just begun does not hold LVM's lock yet.
   * @throws {DiskError} If it does not end
   */
  async #waitForWorker(group: string): Promise<void> {
    const deadline = performance.now() + WORKER_MS;
    const find = (): Promise<number | undefined> =>
      findProcess(this.#proc, async (read) => {
        const [program = '', ...args] = (await read('cmdline')).split('\0');
        const writes = ['lvcreate', 'lvrename', 'lvchange', 'lvremove', 'lvconvert'].includes(
          basename(program),
        );
        return writes && args.some((arg) => arg === group || arg.startsWith(`${group}/`));
      });
    for (let pid = await find(); pid !== undefined; pid = await find()) {
      if (performance.now() > deadline) {
        throw new DiskError(
          'LVM_BUSY',
          `a command of LVM (pid ${pid}) is still working on volume group ${group}`,
          {
            hint: 'wait until it ends, then run the same command again',
          },
        );
      }
      await sleep(POLL_MS);
    }
  }
}

type Row = Readonly<Record<string, string>>;

/** Reads `lvs --reportformat json`: all values are texts. */
function toRows(text: string): readonly Row[] | undefined {
  try {
    const value: unknown = parseJson(text);
    const report = isRecord(value) ? value['report'] : undefined;
    const [first] = Array.isArray(report) ? (report as readonly unknown[]) : [];
    const rows = isRecord(first) ? first['lv'] : undefined;
    if (!Array.isArray(rows)) return undefined;
    return rows
      .filter(isRecord)
      .map((row) => Object.fromEntries(Object.entries(row).map(([key, cell]) => [key, String(cell)])));
  } catch {
    return undefined;
  }
}

function toVolume(row: Row): Volume {
  const cell = (key: (typeof COLUMNS)[number]): string => row[key] ?? '';
  const words = (key: 'lv_layout' | 'lv_role' | 'lv_tags'): readonly string[] =>
    cell(key)
      .split(',')
      .filter((word) => word !== '');
  return {
    group: cell('vg_name'),
    name: cell('lv_name'),
    uuid: cell('lv_uuid'),
    size: Number(cell('lv_size')),
    kind: kindOf(words('lv_layout'), words('lv_role')),
    layout: cell('lv_layout'),
    active: cell('lv_active') !== '',
    open: cell('lv_device_open') === 'open',
    merging: cell('lv_merging') !== '',
    tags: words('lv_tags'),
    originUuid: cell('origin_uuid') === '' ? undefined : cell('origin_uuid'),
    pool: cell('pool_lv') === '' ? undefined : cell('pool_lv'),
    usedPercent: Number.parseFloat(cell('snap_percent')) || 0,
    invalid: !['', 'unknown'].includes(cell('lv_snapshot_invalid')),
  };
}

function toPool(row: Row): Pool {
  const percent = (key: (typeof POOL_COLUMNS)[number]): number => {
    const value = Number.parseFloat(row[key] ?? '');
    // Not active: as if it were full.
    return Number.isFinite(value) ? value : 100;
  };
  return {
    dataPercent: percent('data_percent'),
    metadataPercent: percent('metadata_percent'),
    health: row['lv_health_status'] ?? '',
  };
}

function kindOf(layout: readonly string[], role: readonly string[]): Volume['kind'] {
  if (role.includes('thicksnapshot')) return 'snapshot';
  // A thick snapshot of a thin volume would be lost with a change of its name.
  if (layout.includes('thin'))
    return layout.includes('pool') || role.includes('thickorigin') ? 'other' : 'thin';
  return layout.every((word) => word === 'linear' || word === 'striped') ? 'linear' : 'other';
}

/**
 * Returns the lv_uuid in the device mapper's uuid of a volume: `LVM-`, then the group's and the volume's, 32 characters each, without
 * dashes. A suffix means a part of a volume that is hidden.
 */
function lvUuid(text: string): string | undefined {
  const [, uuid] = /^LVM-[0-9A-Za-z]{32}([0-9A-Za-z]{32})$/.exec(text) ?? [];
  if (uuid === undefined) return undefined;
  return uuid.replace(/^(.{6})(.{4})(.{4})(.{4})(.{4})(.{4})(.{6})$/, '$1-$2-$3-$4-$5-$6-$7');
}

/** Refuses what is no name for LVM (lvm(8)), so that none is taken for an option or ends a quotation. */
function checked(name: string): string {
  if (/^[A-Za-z0-9+_.][A-Za-z0-9+_.-]*$/.test(name)) return name;
  throw new DiskError('LVM_NAME', `${JSON.stringify(name)} is not a name of LVM`);
}

function full(group: string, name: string): string {
  return `${checked(group)}/${checked(name)}`;
}

/** The path of a volume's device, and of those that are hidden with a suffix (lvm(8)). */
function device(group: string, name: string): string {
  return `/dev/mapper/${[checked(group), checked(name)].map((part) => part.replaceAll('-', '--')).join('-')}`;
}

/** Drops what the kernel has cached of a device: the ioctl BLKFLSBUF, which Node does not have. */
async function dropCache(path: string): Promise<void> {
  const { status, stderr } = await runProgram('blockdev', ['--flushbufs', path], { timeoutMs: READ_MS });
  if (status !== 0) throw new DiskError('LVM', `blockdev --flushbufs ${path} failed: ${stderr.trim()}`);
}

/**
 * Without what changes how LVM works: DM_DISABLE_UDEV makes it remove devices' names that udevd has made, LVM_* choose another
 * configuration.
 */
function cleanEnv(): NodeJS.ProcessEnv {
  const kept = Object.entries(process.env).filter(([key]) => !/^(?:LVM|DM)_/.test(key));
  return { ...Object.fromEntries(kept), LVM_SUPPRESS_FD_WARNINGS: '1' };
}

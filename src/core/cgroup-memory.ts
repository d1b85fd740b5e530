/** How much memory the control groups that this process is in still allow it (cgroups(7)). */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** Where each version of the memory controller is mounted, and the names of its files and counters. */
interface Version {
  readonly mount: string;
  readonly limits: readonly string[];
  readonly usage: string;
  readonly prefix: string;
  readonly dirty: readonly string[];
}

const V1: Version = {
  mount: 'sys/fs/cgroup/memory',
  limits: ['memory.limit_in_bytes'],
  usage: 'memory.usage_in_bytes',
  prefix: 'total_',
  dirty: ['dirty', 'writeback'],
};
/** Beyond memory.high, a process is slowed down. */
const V2: Version = {
  mount: 'sys/fs/cgroup',
  limits: ['memory.max', 'memory.high'],
  usage: 'memory.current',
  prefix: '',
  dirty: ['file_dirty', 'file_writeback'],
};

/** What others in the group may need at any moment: such a share of what it may have. */
const RESERVE_SHARE = 8;

/**
 * Returns how many bytes this process can fill before a control group is short of memory, such as that of a systemd service with
 * MemoryMax=; `Infinity` without a limit. Pages of files count as free, unless they are still to be written.
 * @param root for tests
 */
export function cgroupRoom(root = '/'): number {
  let room = Number.POSITIVE_INFINITY;
  for (const line of read(join(root, 'proc/self/cgroup'))?.split('\n') ?? []) {
    const [, controllers, path] = /^[0-9]+:([^:]*):(\/.*)$/.exec(line) ?? [];
    if (path === undefined || controllers === undefined) continue;
    const version = controllers === '' ? V2 : controllers.split(',').includes('memory') ? V1 : undefined;
    if (version === undefined) continue;
    // The limits of the groups above count too.
    for (let group = path; ; group = dirname(group)) {
      room = Math.min(room, roomIn(join(root, version.mount, group), version));
      if (group === '/') break;
    }
  }
  return Math.max(0, room);
}

function roomIn(group: string, { limits, usage, prefix, dirty }: Version): number {
  const limit = Math.min(
    ...limits.map((name) => bytesIn(read(join(group, name))) ?? Number.POSITIVE_INFINITY),
  );
  const used = bytesIn(read(join(group, usage)));
  if (used === undefined || !Number.isFinite(limit)) return Number.POSITIVE_INFINITY;
  const stat = read(join(group, 'memory.stat')) ?? '';
  const count = (name: string): number =>
    bytesIn(new RegExp(`^${prefix}${name} ([0-9]+)$`, 'm').exec(stat)?.[1]) ?? 0;
  const files = count('inactive_file') + count('active_file');
  const unwritten = dirty.reduce((sum, name) => sum + count(name), 0);
  return Math.floor(limit - used + Math.max(0, files - unwritten) - limit / RESERVE_SHARE);
}

/** "max", and version 1's largest number, are no limit. */
function bytesIn(text: string | undefined): number | undefined {
  const bytes = Number(text?.trim() || Number.NaN);
  return Number.isFinite(bytes) && bytes < Number.MAX_SAFE_INTEGER ? bytes : undefined;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    // There is no such controller, or its files are out of sight.
    return undefined;
  }
}

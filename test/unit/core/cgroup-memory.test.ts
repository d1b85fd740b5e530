import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { cgroupRoom } from '../../../src/core/cgroup-memory.ts';
import { spareMemory } from '../../../src/core/spare-memory.ts';
import { tempDir } from '../../support/temp.ts';

const MIB = 2 ** 20;

let root: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  root = await tempDir();
});
afterEach(() => root[Symbol.asyncDispose]());

function put(files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root.path, path)), { recursive: true });
    writeFileSync(join(root.path, path), `${text}\n`);
  }
}

it('a host without control groups, or without limits, has no bound', () => {
  expect(cgroupRoom(root.path)).toBe(Number.POSITIVE_INFINITY);
  put({
    'proc/self/cgroup': '4:memory:/service\n0::/',
    'sys/fs/cgroup/memory/service/memory.limit_in_bytes': '9223372036854771712',
    'sys/fs/cgroup/memory/service/memory.usage_in_bytes': `${100 * MIB}`,
    'sys/fs/cgroup/memory.max': 'max',
    'sys/fs/cgroup/memory.current': `${100 * MIB}`,
  });
  expect(cgroupRoom(root.path)).toBe(Number.POSITIVE_INFINITY);
});

it('version 2: what is not in use, and pages of files that are on the disk, less an eighth', () => {
  const group = 'sys/fs/cgroup/system.slice/nightly.service';
  put({
    'proc/self/cgroup': '0::/system.slice/nightly.service',
    [`${group}/memory.max`]: `${800 * MIB}`,
    [`${group}/memory.high`]: 'max',
    [`${group}/memory.current`]: `${500 * MIB}`,
    [`${group}/memory.stat`]: `anon ${200 * MIB}\ninactive_file ${200 * MIB}\nactive_file ${100 * MIB}\nfile_dirty ${40 * MIB}\nfile_writeback ${10 * MIB}`,
  });
  expect(cgroupRoom(root.path)).toBe((800 - 500 + 300 - 50 - 100) * MIB);
  put({ [`${group}/memory.high`]: `${400 * MIB}` });
  expect(cgroupRoom(root.path)).toBe((400 - 500 + 300 - 50 - 50) * MIB);
});

it('the limit of a group above counts too, and one that is exceeded leaves nothing', () => {
  put({
    'proc/self/cgroup': '0::/system.slice/nightly.service',
    'sys/fs/cgroup/system.slice/memory.max': `${80 * MIB}`,
    'sys/fs/cgroup/system.slice/memory.current': `${50 * MIB}`,
  });
  expect(cgroupRoom(root.path)).toBe(20 * MIB);
  put({ 'sys/fs/cgroup/system.slice/memory.current': `${90 * MIB}` });
  expect(cgroupRoom(root.path)).toBe(0);
});

it('version 1: the counters of the group with those below it', () => {
  put({
    'proc/self/cgroup': '5:cpu,cpuacct:/\n4:memory:/batch',
    'sys/fs/cgroup/memory/batch/memory.limit_in_bytes': `${160 * MIB}`,
    'sys/fs/cgroup/memory/batch/memory.usage_in_bytes': `${100 * MIB}`,
    'sys/fs/cgroup/memory/batch/memory.stat': `inactive_file 1\ntotal_inactive_file ${30 * MIB}\ntotal_active_file 0\ntotal_dirty ${10 * MIB}\ntotal_writeback 0`,
  });
  expect(cgroupRoom(root.path)).toBe((160 - 100 + 20 - 20) * MIB);
});

it('memory that can be spared is bounded by the control groups', () => {
  const meminfo = 'MemTotal: 8388608 kB\nMemAvailable: 8388608 kB\nDirty: 0 kB\nWriteback: 0 kB\n';
  expect(spareMemory(meminfo, 100 * MIB)).toBe(100 * MIB);
  expect(spareMemory(meminfo, 0)).toBe(16 * MIB);
});

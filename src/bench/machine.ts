/** Describes the machine that a bench runs on. */
import { cpus, loadavg, release, totalmem } from 'node:os';
import { omitUndefined } from '../core/omit-undefined.ts';
import { runProgram } from '../toolstack/process/run.ts';
import { describeDevice, readMaybe, type Storage } from './storage.ts';
import type { Machine } from './types.ts';

const GOVERNOR = '/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor';
const XENPM_MS = 5000;

/** Collects what affects the figures: processor, memory, kernel, file system, disk. */
export async function describeMachine({
  fileSystem,
  device,
}: Storage): Promise<Omit<Machine, 'loadBefore' | 'loadAfter'>> {
  const all = cpus();
  return omitUndefined({
    cpu: all[0]?.model.trim().replaceAll(/\s+/g, ' ') ?? 'unknown',
    cpus: all.length,
    memoryBytes: totalmem(),
    kernel: `Linux ${release()}`,
    fileSystem,
    governor: await governor(),
    storage: device === undefined ? undefined : await describeDevice(device),
  });
}

/** Finds out how the processor's frequency is chosen: by Xen, or by dom0's kernel; `undefined` if neither says. */
async function governor(): Promise<string | undefined> {
  const ofXen = await runProgram('xenpm', ['get-cpufreq-para', '0'], { timeoutMs: XENPM_MS }).catch(
    () => undefined,
  );
  return governorOf(ofXen?.stdout ?? '') ?? (await readMaybe(GOVERNOR));
}

/** Finds the governor in what `xenpm get-cpufreq-para` prints (tools/misc/xenpm.c: print_cpufreq_para). */
export function governorOf(text: string): string | undefined {
  return /^current_governor\s*:\s*(\S+)/m.exec(text)?.[1];
}

/** Returns the load average of the last minute. */
export function load(): number {
  return loadavg()[0] ?? 0;
}

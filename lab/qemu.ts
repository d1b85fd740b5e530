/** Runs the QEMU of the lab's machine. */
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Emulator } from './emulator.ts';
import { LabError } from './errors.ts';
import type { Image } from './image.ts';
import { isAlive, type ProcessId, poll, processId, tail } from './proc.ts';
import { isObject, Qmp } from './qmp.ts';

export type Accel = 'kvm' | 'tcg';

export interface Machine {
  readonly emulator: Emulator;
  readonly accel: Accel;
  readonly memoryMiB: number;
  readonly dom0MemoryMiB: number;
  readonly cpus: number;
}

const tcgCache = 'tcg,thread=multi,tb-size=512';

/**
 * The processor for software emulation, without XSAVE, AVX and SMAP: Xen's lazy FPU switching corrupts dom0's
 * registers with the first two, and dom0 dies early with the last. PVH and HVM guests need SVM with nested
 * paging.
 */
const tcgCpu = 'qemu64,+svm,+npt,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+lahf_lm';

/** Files of the running lab. */
export interface RunFiles {
  readonly dir: string;
  readonly console: string;
  readonly log: string;
  readonly qmp: string;
  readonly disk: string;
  /** A raw disk through which files are copied in and out. */
  readonly exchange: string;
  /** An empty raw disk for a volume group, `/dev/vdc` in dom0. */
  readonly extra: string;
}

export const exchangeDevice = '/dev/vdb';
/** Size of the exchange disk, which is sparse. */
export const exchangeSize = 16 * 2 ** 30;

/** Size of the extra disk, which is sparse. */
export const extraSize = 4 * 2 ** 30;

export function runFiles(dir: string): RunFiles {
  return {
    dir,
    console: join(dir, 'dom0-console.log'),
    log: join(dir, 'qemu.log'),
    qmp: join(dir, 'qmp.sock'),
    disk: join(dir, 'disk.qcow2'),
    exchange: join(dir, 'exchange.raw'),
    extra: join(dir, 'extra.raw'),
  };
}

export function defaultCpus(): number {
  return Math.max(1, Math.min(2, cpus().length));
}

/** Returns whether KVM is worth trying. Only the trial boot shows whether it works. */
export function kvmMayWork(): boolean {
  try {
    accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  } catch {
    return false;
  }
  return /^flags\s*:.*\b(vmx|svm)\b/m.test(readFileSync('/proc/cpuinfo', 'utf8'));
}

export function machineArgs(image: Image, machine: Machine, files: RunFiles, port: number): string[] {
  const { accel, memoryMiB, dom0MemoryMiB } = machine;
  const xen = [
    `dom0_mem=${dom0MemoryMiB}M,max:${dom0MemoryMiB}M`,
    `dom0_max_vcpus=${machine.cpus}`,
    'console=com1 com1=115200,8n1 loglvl=info guest_loglvl=info',
    'bootscrub=no spec-ctrl=no xpti=no',
  ].join(' ');
  // No comma here: QEMU splits the list of multiboot modules at commas.
  const linux =
    'console=hvc0 earlyprintk=xen quiet loglevel=4 mitigations=off nokaslr rw net.ifnames=0 init=/lab/sbin/init';
  return [
    ...['-accel', accel === 'kvm' ? 'kvm' : tcgCache, '-cpu', accel === 'kvm' ? 'host' : tcgCpu],
    ...['-machine', 'pc,usb=off', '-smp', String(machine.cpus), '-m', String(memoryMiB)],
    ...['-nodefaults', '-no-user-config', '-no-reboot', '-display', 'none'],
    ...['-kernel', image.xen, '-append', xen, '-initrd', `${image.kernel} ${linux},${image.initrd}`],
    ...['-drive', `file=${files.disk},if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap`],
    ...['-drive', `file=${files.exchange},if=none,id=exchange,format=raw,cache=unsafe`],
    ...['-drive', `file=${files.extra},if=none,id=extra,format=raw,cache=unsafe,discard=unmap`],
    ...['disk', 'exchange', 'extra'].flatMap((drive) => ['-device', `virtio-blk-pci,drive=${drive}`]),
    ...['-netdev', `user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:${port}-:22`],
    ...['-device', 'virtio-net-pci,netdev=net,romfile='],
    ...['-serial', `file:${files.console}`, '-qmp', `unix:${files.qmp},server=on,wait=off`],
  ];
}

/** Returns a free port on the loopback interface. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new LabError('host', 'no free port');
  return address.port;
}

/**
 * Starts QEMU in a session of its own, so that it outlives this process. libxl gives a device model 10 s to
 * answer, which is too little under emulation on a busy machine, so QEMU gets a higher priority if we may set
 * it.
 */
export async function startQemu(
  emulator: Emulator,
  args: readonly string[],
  files: RunFiles,
): Promise<ProcessId> {
  for (const old of [files.qmp, files.console, files.log]) rmSync(old, { force: true });
  const log = openSync(files.log, 'w', 0o600);
  const child = spawn('nice', ['-n', '-10', emulator.program, ...emulator.args, ...args], {
    detached: true,
    stdio: ['ignore', log, log],
    cwd: files.dir,
  });
  await new Promise<void>((resolve, reject) => {
    child.once('spawn', resolve);
    child.once('error', reject);
  });
  child.unref();
  if (child.pid !== undefined) goFirst(child.pid);
  const id = child.pid === undefined ? undefined : processId(child.pid);
  await poll(() => existsSync(files.qmp) || id === undefined || !isAlive(id) || undefined, {
    timeoutMs: 30_000,
    everyMs: 30,
    what: 'QEMU',
  });
  if (id === undefined || !isAlive(id)) {
    throw new LabError('boot', `QEMU ended at once:\n${tail(readFileSync(files.log, 'utf8'))}`);
  }
  return id;
}

/**
 * Raises the priority of QEMU's session. If the kernel groups processes by session (sched(7), "The autogroup
 * feature"), nice counts only within a session, and eight busy sessions would leave QEMU a ninth of the
 * processors.
 */
function goFirst(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/autogroup`, '-10');
  } catch {
    // There is no such grouping, or we may not change it.
  }
}

/** Ends this QEMU, and no other process. */
export async function stopQemu(id: ProcessId, files: RunFiles): Promise<void> {
  const gone = async (ms: number): Promise<boolean> => {
    for (const end = Date.now() + ms; Date.now() < end; await sleep(50)) if (!isAlive(id)) return true;
    return !isAlive(id);
  };
  try {
    const qmp = await Qmp.connect(files.qmp);
    await qmp.execute('quit');
    qmp.close();
  } catch {
    // It does not listen: a signal must do.
  }
  if (await gone(5_000)) return;
  for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
    if (isAlive(id)) process.kill(id.pid, signal);
    if (await gone(5_000)) return;
  }
  throw new LabError('host', `QEMU (process ${id.pid}) does not exit`);
}

/** Waits for a line on dom0's console. */
export async function waitForConsole(
  id: ProcessId,
  files: RunFiles,
  pattern: RegExp,
  timeoutMs: number,
): Promise<void> {
  await poll(
    () => {
      const text = existsSync(files.console) ? readFileSync(files.console, 'latin1') : '';
      if (pattern.test(text)) return true;
      const failed = /LAB-FAILED .*/.exec(text)?.[0] ?? /Panic on CPU[\s\S]{0,300}/.exec(text)?.[0];
      if (failed !== undefined) throw new LabError('boot', `dom0: ${failed}`);
      if (!isAlive(id)) {
        const log = readFileSync(files.log, 'utf8');
        throw new LabError('boot', `QEMU ended:\n${tail(log)}\n${tail(text, 10)}`);
      }
      return undefined;
    },
    { timeoutMs, everyMs: 150, what: `dom0's console (${pattern.source})` },
  );
}

export async function saveState(files: RunFiles, file: string): Promise<void> {
  await withQmp(files, async (qmp) => {
    await qmp.execute('stop');
    await qmp.execute('migrate-set-parameters', { 'max-bandwidth': 10_000_000_000 });
    await qmp.execute('migrate', { uri: `exec:cat >'${file}'` });
    await waitForMigration(qmp);
  });
}

export async function resume(files: RunFiles): Promise<void> {
  await withQmp(files, (qmp) => qmp.execute('cont'));
}

export async function loadState(files: RunFiles, file: string): Promise<void> {
  await withQmp(files, async (qmp) => {
    await qmp.execute('migrate-incoming', { uri: `exec:cat '${file}'` });
    await waitForMigration(qmp);
    await qmp.execute('cont');
  });
}

/** Reads the machine's memory. */
export async function readMemory(files: RunFiles, address: number, size: number): Promise<Buffer> {
  const part = join(files.dir, 'memory');
  try {
    await withQmp(files, (qmp) => qmp.execute('pmemsave', { val: address, size, filename: part }));
    return readFileSync(part);
  } finally {
    rmSync(part, { force: true });
  }
}

async function waitForMigration(qmp: Qmp): Promise<void> {
  await poll(
    async () => {
      const answer = await qmp.execute('query-migrate');
      const status = isObject(answer) ? answer['status'] : undefined;
      if (status === 'completed') return true;
      if (status === 'failed' || status === 'cancelled') {
        throw new LabError('boot', `QEMU's state: ${JSON.stringify(answer)}`);
      }
      return undefined;
    },
    { timeoutMs: 120_000, everyMs: 50, what: "QEMU's state" },
  );
}

async function withQmp<T>(files: RunFiles, job: (qmp: Qmp) => Promise<T>): Promise<T> {
  const qmp = await Qmp.connect(files.qmp);
  try {
    return await job(qmp);
  } finally {
    qmp.close();
  }
}

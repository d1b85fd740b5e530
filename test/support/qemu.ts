/** Runs a real QEMU with disks as Xen's device model has them, but without a running guest. */
import { execFile, spawn } from 'node:child_process';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { QmpClient } from '../../src/qmp/client.ts';
import { QmpConnectError } from '../../src/qmp/errors.ts';

const run = promisify(execFile);

export interface Qemu extends AsyncDisposable {
  readonly socket: string;
  readonly pid: number;
  /** Rejects once QEMU has exited, with its output. */
  readonly ended: Promise<never>;
  /** Waits for the end. */
  quit(): Promise<void>;
}

/** Arguments for a disk as hw/block/xen-block.c makes it: a format node `<vdev>-<format>`, its file node inline. */
export function xenDisk(vdev: string, file: string, format = 'qcow2'): string[] {
  const node = {
    driver: format,
    'node-name': `${vdev}-${format}`,
    file: { driver: 'file', filename: file, locking: 'off' },
  };
  return ['-blockdev', JSON.stringify(node), '-device', `virtio-blk-pci,drive=${vdev}-${format},share-rw=on`];
}

const PC: readonly string[] = [
  ...['-machine', 'pc', '-accel', 'tcg', '-m', '16', '-S'],
  ...['-nodefaults', '-display', 'none'],
];

/** Starts QEMU with a QMP socket in `directory`; its CPUs never run. */
export async function startQemu(
  directory: string,
  args: readonly string[],
  program = 'qemu-system-x86_64',
  machine: readonly string[] = PC,
): Promise<Qemu> {
  const socket = join(directory, 'qmp');
  const child = spawn(program, [...machine, '-qmp', `unix:${socket},server=on,wait=off`, ...args], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let words = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    words += text;
  });
  let over: Error | undefined;
  const ended = new Promise<void>((resolve) => {
    child.once('error', (error) => {
      over = error;
      resolve();
    });
    child.once('close', () => {
      over ??= new Error(`${program} ended: ${words}`);
      resolve();
    });
  });
  const failed = ended.then((): never => {
    throw over ?? new Error(`${program} ended`);
  });
  failed.catch(() => {});
  const qemu: Qemu = {
    socket,
    ended: failed,
    pid: child.pid ?? 0,
    async quit() {
      await using client = await QmpClient.connect(socket);
      await client.execute('quit');
      await ended;
    },
    async [Symbol.asyncDispose]() {
      child.kill('SIGKILL');
      await ended;
    },
  };
  for (;;) {
    try {
      await using _ = await QmpClient.connect(socket);
      return qemu;
    } catch (error) {
      if (over !== undefined) throw over;
      if (!(error instanceof QmpConnectError)) throw error;
      await sleep(20);
    }
  }
}

/** Runs a program, and returns its standard output. */
export async function output(program: string, ...args: string[]): Promise<string> {
  return (await run(program, args)).stdout;
}

/** Creates an image of 4 MiB. */
export async function makeImage(path: string, format = 'qcow2', ...more: string[]): Promise<string> {
  await output('qemu-img', 'create', '-q', '-f', format, ...more, path, '4M');
  return path;
}

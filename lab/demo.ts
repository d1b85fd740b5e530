/**
 * `npm run demo`: an HVM guest that counts, in memory and on its disk, is snapshotted, counts on, and is
 * reverted. Its own numbers show whether memory and disk were restored together. The exit code is 0 only if
 * they were.
 */
import { installXlsnap } from './install.ts';
import { Lab } from './lab.ts';

const NAME = 'demo';
const TIMEOUT_MS = 600_000;
const lab = Lab.open();
const start = performance.now();

function say(text: string): void {
  const seconds = Math.round((performance.now() - start) / 1000);
  process.stdout.write(`[${String(seconds).padStart(3)} s] ${text}\n`);
}

/** Runs a command in dom0, and shows it with its output. */
async function show(command: string): Promise<string> {
  say(`dom0# ${command}`);
  const { stdout } = await lab.run(command, { timeoutMs: TIMEOUT_MS });
  for (const line of stdout.trimEnd().split('\n')) process.stdout.write(`          ${line}\n`);
  return stdout;
}

async function demo(): Promise<void> {
  say(
    'Starting a machine with real Xen, under QEMU. The first time its image is built, which takes some minutes.',
  );
  await lab.up();
  await installXlsnap(lab);
  await lab.removeGuest(NAME);
  await lab.run('rm -rf /var/lib/xen/snapshots');
  say(
    'An HVM guest with a qcow2 disk. Ten times a second it adds 1 to a number in its memory and on its disk.',
  );
  await lab.startGuest({
    type: 'hvm',
    name: NAME,
    memoryMiB: 96,
    disks: [{ vdev: 'xvda', format: 'qcow2', sizeMiB: 32 }],
  });
  const running = await lab.waitForTicks(NAME, 5);
  say(`It has counted to ${running.n}. Now the snapshot:`);
  await show(`xlsnap snapshot-create ${NAME} --name before`);
  const later = await lab.waitForTicks(NAME, 20);
  say(`The guest kept running: it has counted to ${later.n}, in memory and on disk. Now the revert:`);
  const told = (await lab.guestReport(NAME)).ticks.length;
  await show(`xlsnap snapshot-revert ${NAME} /var/lib/xen/snapshots/*/before.save.cfg`);
  await lab.waitForTicks(NAME, 10);
  const { ticks, up, complaints } = await lab.guestReport(NAME);
  const back = ticks.slice(told).find((tick) => tick.n < later.n);
  const last = ticks.at(-1);
  if (back === undefined || last === undefined || up.length !== 1 || complaints.length > 0) {
    throw new Error(`unexpected: ${complaints[0] ?? 'the guest did not continue from the snapshot'}`);
  }
  say(
    `The guest continues from ${back.n}, as if ${back.n} … ${later.n} had never happened, and has reached ${last.n}.`,
  );
  say('At each step it compares its disk with its memory: both were restored together (0 mismatches).');
}

try {
  await demo();
} finally {
  await lab.removeGuest(NAME).catch(() => undefined);
  await lab.down();
}

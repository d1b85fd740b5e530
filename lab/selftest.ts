/**
 * Tests the lab itself: guests of all types boot and count, `xl save` and `xl restore` lose nothing, memory and disk
 * of one instant agree, a disk that has changed since is noticed, and guests reboot and shut down on request.
 *
 *   node scripts/run.mjs lab/selftest.ts [pv] [pvh] [hvm]
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { decodeDisk, diskSpan, findPages } from './counter.ts';
import type { GuestType } from './guests.ts';
import { Lab, type LabGuest } from './lab.ts';

const lab = Lab.open();
const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-selftest-'));

async function timed<T>(what: string, job: () => Promise<T>): Promise<T> {
  const start = performance.now();
  const result = await job();
  process.stdout.write(`  ${what}: ${((performance.now() - start) / 1000).toFixed(1)} s\n`);
  return result;
}

/** Returns the number on each disk of a guest that does not run. */
async function numbersOnDisks(guest: LabGuest): Promise<number[]> {
  const numbers: number[] = [];
  for (const disk of guest.disks) {
    const raw = `${disk.path}.head`;
    await lab.run(
      `qemu-img dd -f ${disk.format} -O raw bs=512 count=${diskSpan / 512} if=${disk.path} of=${raw}`,
    );
    const local = join(scratch, 'disk');
    await lab.copyOut(raw, local);
    const report = decodeDisk(readFileSync(local));
    assert.ok(report, `${disk.vdev}: no counter in the head sector`);
    assert.deepEqual(report.problems, []);
    numbers.push(report.head.number);
  }
  return numbers;
}

async function prove(type: GuestType): Promise<void> {
  const name = `self-${type}`;
  const saved = `/lab/${name}.save`;
  process.stdout.write(`${type}\n`);
  await lab.removeGuest(name);
  const guest = await timed('start to first tick', () =>
    lab.startGuest({
      type,
      name,
      memoryMiB: 96,
      onReboot: 'restart',
      dirty: { mib: 2, rate: 200 },
      disks: [
        { vdev: 'xvda', format: 'qcow2', sizeMiB: 64 },
        { vdev: 'xvdb', format: 'raw', sizeMiB: 16 },
      ],
    }),
  );
  const ticks = async (n: number): Promise<void> => {
    await lab.waitForTicks(name, n);
    assert.deepEqual((await lab.guestReport(name)).complaints, []);
  };
  await ticks(10);

  await timed('xl save -c', () => lab.run(`xl save -c ${name} ${saved}`, { timeoutMs: 180_000 }));
  assert.equal((await lab.domains()).get(name)?.domid, guest.domid);
  await ticks(10);

  const before = await lab.counter(name);
  await timed('xl save', () => lab.run(`xl save ${name} ${saved}`, { timeoutMs: 180_000 }));
  await lab.run(`verify-stream-v2 -f xl -i ${saved}`, { timeoutMs: 120_000 });
  await timed('copy out', () => lab.copyOut(saved, join(scratch, 'save')));
  const memory = findPages(readFileSync(join(scratch, 'save'))).at(-1);
  assert.ok(memory && before && memory.done >= before.n, 'the counter page is in the file');
  for (const number of await numbersOnDisks(guest)) {
    assert.ok(memory.done <= number && number <= memory.started, `disk ${number}, memory ${memory.done}`);
  }
  await timed('xl restore', () => lab.run(`xl restore ${saved}`, { timeoutMs: 180_000 }));
  await ticks(10);
  const after = await lab.guestReport(name);
  assert.equal(after.up.length, 1, 'the guest continued, it did not boot');
  assert.ok((after.ticks.at(-1)?.n ?? 0) > memory.done);

  // Memory of that instant with the disk of now must be noticed.
  for (let tries = 1; ; tries++) {
    await lab.run(`xl destroy ${name} && xl restore ${saved}`, { timeoutMs: 180_000 });
    const domid = (await lab.domains()).get(name)?.domid;
    await lab.waitForTicks(name, 5);
    if (domid === undefined || !lab.tripleFaults().includes(domid)) break;
    assert.ok(tries < 4, 'a restored guest dies of a triple fault each time');
    process.stdout.write(`  domain ${domid} died of a triple fault; restoring once more\n`);
  }
  const { complaints } = await lab.guestReport(name);
  for (const vdev of ['xvda', 'xvdb']) {
    assert.ok(complaints.some((line) => line.startsWith(`MISMATCH vdev=${vdev} `)));
  }

  // A reboot continues with the number on the disks.
  const last = await lab.counter(name);
  await timed('xl reboot to first tick', async () => {
    await lab.run(`xl reboot ${name}`);
    for (let i = 0; (await lab.guestReport(name)).up.length < 2; i++) {
      assert.ok(i < 200, 'no GUEST-UP after xl reboot');
      await sleep(1000);
    }
  });
  const second = (await lab.guestReport(name)).up.at(-1);
  assert.ok(second && last && second.counter >= last.n, 'the number of the disks was taken over');
  await lab.waitForTicks(name, 3);
  await timed('xl shutdown', () => lab.run(`xl shutdown -w ${name}`, { timeoutMs: 120_000 }));
  await numbersOnDisks(guest);
  await lab.run(`rm -f ${saved}`);
  await lab.removeGuest(name);
}

try {
  await lab.up();
  const chosen = process.argv.slice(2);
  for (const type of ['pv', 'pvh', 'hvm'] as const) {
    if (chosen.length === 0 || chosen.includes(type)) await prove(type);
  }
  process.stdout.write('all passed\n');
} finally {
  rmSync(scratch, { recursive: true });
}

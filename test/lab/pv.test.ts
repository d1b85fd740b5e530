/** Compares a PV guest's stream with that of xl, both of one instant. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { FileSource } from '../../src/core/byte-source.ts';
import { EXIT } from '../../src/core/errors.ts';
import { compareSaves, describeDifference } from '../support/compare-saves.ts';
import { type Contents, readContents } from '../support/relayout.ts';
import { Dom0, PV_LIVE, XEN } from './host.ts';

const NAME = 'e2e-same';
const FOLDER = '/lab/same';

let dom0: Dom0;
beforeAll(async () => {
  dom0 = await Dom0.open();
});
afterAll(() => dom0?.close());

async function fetchContents(path: string): Promise<Contents> {
  const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-same-'));
  try {
    const local = join(scratch, 'save');
    await dom0.lab.copyOut(path, local);
    await using source = await FileSource.open(local);
    return await readContents(source);
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** The guest of both tests: 96 MiB, two vCPUs, and a process that writes. */
async function startGuest(): Promise<void> {
  await dom0.lab.removeGuest(NAME);
  await dom0.lab.run(`rm -rf ${FOLDER}; mkdir -p ${FOLDER}`);
  await dom0.lab.startGuest({
    type: 'pv',
    name: NAME,
    memoryMiB: 96,
    vcpus: 2,
    dirty: { mib: 8, rate: 500 },
    disks: [{ vdev: 'xvda', format: 'qcow2', sizeMiB: 32 }],
  });
}

it.runIf(!PV_LIVE)(
  'a live create is refused if Xen has no shadow paging, and the guest keeps running',
  async () => {
    await dom0.steadily(NAME, async () => {
      await startGuest();
      const { code, stderr } = await dom0.xlsnap(`snapshot-create ${NAME} --live -q`);
      expect(stderr).toMatch(/without shadow paging.*without --live/s);
      expect(code).toBe(EXIT.preflight);
      await dom0.lab.waitForTicks(NAME, 3);
      expect((await dom0.lab.guestReport(NAME)).complaints).toEqual([]);
    });
  },
);

it.each(PV_LIVE ? ['', '--live'] : [''])(
  "xlsnap's stream and xl's of the same instant are identical %s",
  async (live) => {
    await dom0.steadily(NAME, async () => {
      await startGuest();
      await dom0.lab.copyIn(join(import.meta.dirname, 'same-instant.mjs'), '/opt/xlsnap/same-instant.mjs');
      const { stdout } = await dom0.lab.run(
        `node /opt/xlsnap/same-instant.mjs ${NAME} ${FOLDER}/ours ${FOLDER}/xl ${live}`,
        { timeoutMs: 300_000 },
      );
      console.log(`  Xen ${XEN}: ${stdout.trim()}`);
      await dom0.lab.waitForTicks(NAME, 10);
      expect((await dom0.lab.guestReport(NAME)).complaints).toEqual([]);
      const difference = compareSaves(
        await fetchContents(`${FOLDER}/ours`),
        await fetchContents(`${FOLDER}/xl`),
      );
      console.log(describeDifference(difference));
      expect(difference).toMatchObject({ onlyFirst: [], onlySecond: [], types: [] });
      expect(difference.sameTables).toBeGreaterThan(50);
      // dom0 keeps running: its programs write to their rings, Xen to the clocks in the shared info.
      expect(difference.pages.filter(({ known }) => known === undefined)).toEqual([]);
      expect(difference.records.filter((name) => !/^(SHARED_INFO|X86_TSC_INFO)$/.test(name))).toEqual([]);
    });
    await dom0.lab.removeGuest(NAME);
  },
);

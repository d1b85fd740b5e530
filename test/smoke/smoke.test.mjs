/**
 * The built package under whatever Node runs this: `node --test test/smoke`. By node:test, since vitest does not run on all of
 * them. It needs neither Xen nor QEMU.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { gunzipSync } from 'node:zlib';
import { createSnapshot, revertSnapshot } from 'xlsnap';
import { parseConfig } from 'xlsnap/config';
import { BufferSource, verifyStream } from 'xlsnap/savefmt';
import { contentOf, FakeGuest, FakeHost } from 'xlsnap/testing';
import { findLibraries, koffiVersion } from 'xlsnap/xenctrl';
import { crc32, crc32ByTables } from '../../dist/core/crc32.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const directory = mkdtempSync(join(tmpdir(), 'xlsnap-smoke-'));
after(() => rmSync(directory, { recursive: true, force: true }));

/** Runs the command line under this Node. */
function xlsnap(...args) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(root, 'dist/cli/main.js'), ...args], {
    encoding: 'utf8',
  });
  return { status, stdout, stderr };
}

const saved = join(directory, 'hvm.save');
writeFileSync(saved, gunzipSync(readFileSync(join(root, 'fixtures/savefmt/hvm.xlsave.gz'))));

test('CRC-32, by this Node or by tables', () => {
  const bytes = new TextEncoder().encode('123456789');
  for (const sum of [crc32, crc32ByTables]) {
    assert.equal(sum(bytes), 0xcbf43926);
    assert.equal(sum(bytes.subarray(4), sum(bytes.subarray(0, 4))), 0xcbf43926);
  }
});

for (const live of [false, true]) {
  test(`a create${live ? ' --live' : ''} and a revert of a made-up domain`, async () => {
    const place = mkdtempSync(join(directory, 'host-'));
    // Enough memory for superpages, and for pages of zeros.
    const guest = new FakeGuest(
      new Uint8Array(4000).fill(15, 160, 192).fill(15, 3000),
      (pfn) => pfn % 3 === 0,
    );
    const host = new FakeHost({ directory: place, guest, disks: [{ vdev: 'xvda' }] });
    host.write('at the snapshot');
    const { plan, pages } = await createSnapshot(host, { domain: 'guest1', live });
    assert.equal(pages, 3000 - 32);
    host.write('later');
    const verified = xlsnap('verify', plan.memoryPath, '--json');
    assert.equal(verified.status, 0, verified.stderr);
    assert.equal(JSON.parse(verified.stdout).checksums, 'right');
    const config = parseConfig(readFileSync(plan.configPath), plan.configPath);
    await revertSnapshot(host, { domain: 'guest1', config });
    assert.equal(contentOf(join(place, 'xvda.img')), 'at the snapshot');
    assert.equal(host.runs, true);
  });
}

test('a stream of xl is read', async () => {
  const { ok, facts } = await verifyStream(new BufferSource(readFileSync(saved)));
  assert.equal(ok, true);
  assert.equal(facts.guestType, 'hvm');
});

test('C functions can be called', async () => {
  assert.match(await koffiVersion(), /^\d+\.\d+/);
  // Whether there are any of Xen depends on the machine.
  assert.ok(Array.isArray((await findLibraries()).usable));
});

test('the command line starts, and helps', () => {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  assert.deepEqual(xlsnap('--version'), { status: 0, stdout: `${version}\n`, stderr: '' });
  const help = xlsnap('snapshot-create', '--help');
  assert.equal(help.status, 0);
  assert.match(help.stdout, /--untested-xen/);
  assert.equal(xlsnap('snapshot-create').status, 2);
});

test('it inspects a file', () => {
  const { status, stdout, stderr } = xlsnap('inspect', saved, '--json');
  assert.equal(status, 0, stderr);
  assert.equal(JSON.parse(stdout).memory.pages, 13);
});

test('it finds damage', () => {
  const bad = join(directory, 'bad.save');
  writeFileSync(bad, readFileSync(saved).subarray(0, -100));
  assert.equal(xlsnap('verify', bad).status, 9);
});

test('doctor takes this Node, and reports the rest', () => {
  const { status, stdout, stderr } = xlsnap('doctor', '--json');
  assert.ok(status === 0 || status === 5 || status === 13, stderr);
  const { checks } = JSON.parse(stdout);
  const statusOf = (name) => checks.find((check) => check.name === name)?.status;
  assert.equal(statusOf('node'), 'ok');
  assert.equal(statusOf('koffi'), 'ok');
});

test('the guardian starts, and ends when it is dismissed', () => {
  for (const place of ['dist/cli', 'dist/toolstack']) {
    const program = join(root, place, 'guardian-main.js');
    assert.ok(existsSync(program));
    const { status, stderr } = spawnSync(process.execPath, [program], { input: 'done\n', encoding: 'utf8' });
    assert.equal(status, 0, stderr);
  }
});

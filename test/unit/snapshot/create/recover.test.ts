import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import fs, { writeFile } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import { silentReporter } from '../../../../src/core/reporter.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { readJournal } from '../../../../src/snapshot/read-journal.ts';
import { recoverAll, recoverSnapshot } from '../../../../src/snapshot/recover.ts';
import { contentOf, FakeHost, readImage, writeImage } from '../../../../src/testing/fake-host.ts';
import {
  type Before,
  before,
  expectAsBefore,
  failure,
  fastDirectory,
  snapshotConfig,
} from '../../../support/scene.ts';

let host: FakeHost;
let was: Before;
/** Ends what the dead process still waits for. */
let bury: () => Promise<void> = () => Promise.resolve();
const at = (name: string): string => join(host.directory, name);
const memory = (): string => at('s1.save');
const journal = (): string => at('s1.save.journal');

beforeEach(() => {
  host = new FakeHost({
    directory: fastDirectory('xlsnap-recover-'),
    disks: [{ vdev: 'xvda' }, { vdev: 'xvdb' }],
  });
  was = before(host);
});
afterEach(async () => {
  await bury();
  bury = () => Promise.resolve();
  rmSync(host.directory, { recursive: true });
});

/** Starts a create whose process is killed before a port call takes effect. */
async function killedIn(call: string, more: object = {}): Promise<void> {
  const { directory } = host;
  let release = (): void => {};
  let dead: Promise<unknown> = Promise.resolve();
  await new Promise<void>((resolve) => {
    host.fault = (name) => {
      if (name !== call) return;
      resolve();
      return new Promise<never>((_, reject) => {
        release = () => reject(new Error('gone'));
      });
    };
    const kinds = [...host.inUse].length > 1 ? (['external', 'internal'] as const) : (['internal'] as const);
    const config = snapshotConfig('s1', directory, [...kinds]);
    dead = createSnapshot(host, { domain: 'guest1', config, ...more }).catch(() => {});
  });
  host.fault = () => {};
  host.locked = false;
  host.guarded.clear();
  const { host: own } = { host };
  bury = async () => {
    own.dead = true;
    release();
    await dead;
  };
}

/** Changes the journal as if the host had gone down since. */
function reboot(): void {
  writeFileSync(journal(), readFileSync(journal(), 'utf8').replace(/"boot":"[^"]*"/, '"boot":"another"'));
  rmSync(host.runDirectory, { recursive: true, force: true });
  host.suspended = false;
  host.machineStopped = false;
}

const files = (): string[] => readdirSync(host.directory).sort();

describe('recoverSnapshot', () => {
  it('reports what it found and did', async () => {
    await killedIn('resume');
    expect(host.suspended).toBe(true);
    expect(await recoverSnapshot(host, { path: memory() })).toEqual({
      journal: journal(),
      kind: 'create',
      outcome: 'undone',
      name: 's1',
      domain: 'guest1',
      guest: 'running',
      undone: [
        'resumed the guest',
        'removed the snapshot of disk xvdb',
        'removed the snapshot of disk xvda',
        `removed ${memory()}.partial`,
      ],
    });
    expectAsBefore(host, was);
    expect(await recoverSnapshot(host, { path: journal() })).toMatchObject({ outcome: 'nothing' });
  });

  it('recover leaves a create alone that is still running', async () => {
    await killedIn('settle');
    host.locked = true;
    expect(await failure(recoverSnapshot(host, { path: memory() }))).toMatchObject({ code: 'DOMAIN_BUSY' });
    expect(host.suspended).toBe(true);
    expect(existsSync(journal())).toBe(true);
    host.locked = false;
    await recoverSnapshot(host, { path: memory() });
    expectAsBefore(host, was);
  });

  it('recover keeps a snapshot that is complete', async () => {
    let kept = '';
    host.fault = (call) => {
      if (call === 'resume') kept = readFileSync(journal(), 'utf8');
    };
    const config = snapshotConfig('s1', host.directory, ['external', 'internal']);
    await createSnapshot(host, { domain: 'guest1', config });
    writeFileSync(journal(), kept, { mode: 0o600 });
    expect(await recoverSnapshot(host, { path: memory() })).toMatchObject({ outcome: 'whole' });
    expect(files()).toContain('s1.save');
    expect(files()).not.toContain('s1.save.journal');
    expect(readImage(at('xvdb.img')).tags).toHaveProperty('s1');
  });

  it('recover undoes a create that was killed while copies of memory still waited to be written', async () => {
    host.guest.beforeWrite = () => new Promise(() => {});
    const config = snapshotConfig('s1', host.directory, ['external', 'internal']);
    void createSnapshot(host, { domain: 'guest1', config }).catch(() => {});
    await vi.waitFor(() => expect(host.calls).toContain('announceResume'));
    expect(host.runs).toBe(true);
    host.locked = false;
    host.guarded.clear();
    expect(await recoverSnapshot(host, { path: memory() })).toMatchObject({ outcome: 'undone' });
    expectAsBefore(host, was);
  });

  it('recover undoes a create that was killed when the memory file had both names', async () => {
    let kept = '';
    host.fault = (call) => {
      if (call === 'resume') kept = readFileSync(journal(), 'utf8');
    };
    const config = snapshotConfig('s1', host.directory, ['external', 'internal']);
    await createSnapshot(host, { domain: 'guest1', config });
    linkSync(memory(), `${memory()}.partial`);
    writeFileSync(journal(), kept, { mode: 0o600 });
    expect(await recoverSnapshot(host, { path: memory() })).toMatchObject({ outcome: 'undone' });
    expect(files().filter((name) => /^s1.save$|partial|journal|s1-xvda/.test(name))).toEqual([]);
    expect(readImage(at('xvdb.img')).tags).toEqual({});
  });

  it.each(['packPages', 'snapshotDisks', 'resume', 'announceResume'])(
    'recover undoes a create of an earlier version, whose journal knows no reservations, killed in %s',
    async (call) => {
      await killedIn(call);
      const [head = '', ...steps] = readFileSync(journal(), 'utf8').split('\n');
      const { mark: _, ...earlier } = JSON.parse(head) as Record<string, unknown>;
      const known = steps.filter((line) => !/"step":"(preparing|reserved|prepared)"/.test(line));
      writeFileSync(journal(), [JSON.stringify(earlier), ...known].join('\n'), { mode: 0o600 });
      // It reserved overlays as late as it took the snapshots.
      if (call === 'packPages') rmSync(at('s1-xvda.qcow2'));
      await recoverSnapshot(host, { path: memory() });
      expectAsBefore(host, was);
    },
  );

  it('recover leaves a memory file, a cfgfile and an overlay of another program', async () => {
    await killedIn('snapshotDisks');
    for (const name of ['s1.save', 's1.save.cfg', 's1-xvda.qcow2']) {
      writeFileSync(at(name), JSON.stringify({ format: 'raw', content: 'precious', tags: {} }));
    }
    await recoverSnapshot(host, { path: memory() });
    expect(files()).toEqual(['s1-xvda.qcow2', 's1.save', 's1.save.cfg', 'xvda.img', 'xvdb.img']);
  });

  it('withdraws a request to suspend that nobody waits for, before a paused guest is paused again', async () => {
    host.pauses = 1;
    was = before(host);
    await killedIn('suspend');
    host.request = 'acknowledged';
    await recoverSnapshot(host, { path: memory() });
    expect(host.calls.indexOf('withdrawSuspend')).toBeLessThan(host.calls.indexOf('pause'));
    expectAsBefore(host, was);
  });

  it('continues without an undo that fails, and does that one the next time', async () => {
    await killedIn('resume');
    host.fault = (call) => {
      if (call === 'undoSnapshots') throw new Error('QEMU does not answer');
    };
    const error = await failure(recoverSnapshot(host, { path: memory() }));
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', exitCode: 14 });
    expect(error.undone).toContain('resumed the guest');
    expect(error.undoFailures[0]).toMatch(/QEMU does not answer.*by hand/);
    expect(host.runs).toBe(true);
    host.fault = () => {};
    await recoverSnapshot(host, { path: memory() });
    expectAsBefore(host, was);
  });

  it('recover resumes a guest whose QEMU does not answer', async () => {
    await killedIn('resume');
    host.fault = (call) => {
      if (call === 'openDeviceModel') throw new Error('no answer');
    };
    const error = await failure(recoverSnapshot(host, { path: memory() }));
    expect(error.undoFailures.join()).toContain('no answer');
    expect(host.runs).toBe(true);
  });
});

describe('log-dirty mode', () => {
  const hvm = (): FakeHost => new FakeHost({ directory: host.directory, type: 'hvm' });
  const live = { live: true };

  it('log-dirty mode is turned off without opening the guest, which may need more memory than there is', async () => {
    host = hvm();
    await killedIn('settle', live);
    expect([host.guest.logging, host.machineLogs]).toEqual([true, true]);
    host.calls.length = 0;
    const { undone } = await recoverSnapshot(host, { path: memory() });
    expect(undone).toContain('turned log-dirty mode off');
    expect(host.calls).not.toContain('openGuest');
    expect([host.guest.logging, host.machineLogs]).toEqual([false, false]);
  });

  it('is turned off the next time if QEMU could not be asked', async () => {
    host = hvm();
    await killedIn('settle', live);
    host.fault = (call) => {
      if (call === 'openDeviceModel') throw new Error('no answer');
    };
    const error = await failure(recoverSnapshot(host, { path: memory() }));
    expect(error.undoFailures.join()).toMatch(/not turned log-dirty mode off \(no answer\)/);
    host.fault = () => {};
    await recoverSnapshot(host, { path: memory() });
    expect([host.guest.logging, host.machineLogs]).toEqual([false, false]);
  });

  it('is off if QEMU has died, which is reported', async () => {
    host = hvm();
    await killedIn('settle', live);
    host.own.qemuDead = true;
    const told: string[] = [];
    const reporter = { ...silentReporter, log: (_level: string, text: string) => void told.push(text) };
    await failure(recoverSnapshot(host, { path: memory() }, { reporter }));
    expect(told.join()).toMatch(/the QEMU of guest1 has exited/);
    expect(host.guest.logging).toBe(false);
  });

  it('is not touched later if the create itself has turned it off', async () => {
    host = hvm();
    host.fault = (call) => {
      if (call === 'settle') throw new Error('planted');
      if (call === 'announceResume') throw new Error('xenstored hangs');
    };
    const config = snapshotConfig('s1', host.directory, ['internal']);
    await failure(createSnapshot(host, { domain: 'guest1', config, ...live }));
    expect(host.machineLogs).toBe(false);
    host.fault = () => {};
    host.calls.length = 0;
    await recoverSnapshot(host, { path: memory() });
    expect(host.calls.filter((call) => /logDirty|stopDirtyLog/.test(call))).toEqual([]);
  });
});

describe('the guest resumes first', () => {
  it('the guest resumes although the storage with the journal hangs', async () => {
    host.pauses = 1;
    was = before(host);
    await killedIn('settle');
    const text = readFileSync(journal(), 'utf8');
    rmSync(journal());
    // An open waits until another process opens the other end.
    execFileSync('mkfifo', ['-m', '600', journal()]);
    const recovered = recoverSnapshot(host, { path: memory() }).catch(() => {});
    await vi.waitFor(() => expect([host.suspended, host.pauses]).toEqual([false, 1]));
    expect(existsSync(`${memory()}.partial`)).toBe(true);
    // Not in this thread: the reader may not exist yet.
    await writeFile(journal(), text);
    await recovered;
  });

  it('as does the guest of another create, in recoverAll', async () => {
    await killedIn('settle');
    rmSync(journal());
    execFileSync('mkfifo', ['-m', '600', journal()]);
    const recovered = recoverAll(host, at('none')).catch(() => {});
    await vi.waitFor(() => expect(host.runs).toBe(true));
    await writeFile(journal(), '{}\n');
    await recovered;
  });

  it('also if an earlier xlsnap has noted it in the journal', async () => {
    await killedIn('settle');
    const [record = ''] = readdirSync(host.runDirectory);
    const lines = readFileSync(join(host.runDirectory, record), 'utf8').trim().split('\n').slice(1);
    for (const line of lines) {
      appendFileSync(journal(), line.replace('{', '{"step":"hold",').concat('\n'));
    }
    rmSync(host.runDirectory, { recursive: true });
    host.fault = (call) => {
      if (call === 'resume') throw new Error('not now');
    };
    await failure(recoverSnapshot(host, { path: memory() }));
    expect(existsSync(journal())).toBe(true);
    host.fault = () => {};
    await recoverSnapshot(host, { path: memory() });
    expectAsBefore(host, was);
  });

  it('but not if its domid means another domain by then', async () => {
    await killedIn('settle');
    const name = readdirSync(host.runDirectory)[0] ?? '';
    const record = join(host.runDirectory, name);
    writeFileSync(record, readFileSync(record, 'utf8').replace(/"uuid":"[^"]*"/, '"uuid":"another"'));
    host.calls.length = 0;
    await recoverSnapshot(host, { path: memory() });
    expect(host.calls).not.toContain('resume');
    expect(existsSync(host.runDirectory)).toBe(false);
  });
});

describe('after a crash of the host', () => {
  it('a tag and an overlay are undone by qemu-img, without a domain, and what the guest wrote since is kept', async () => {
    await killedIn('resume');
    host.suspended = false;
    host.write('written on the overlay');
    reboot();
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    await recoverSnapshot(host, { path: memory() });
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
    expect(contentOf(at('xvda.img'))).toBe('written on the overlay');
    expect(readImage(at('xvdb.img')).tags).toEqual({});
  });

  it('an image that another domain uses is not written to', async () => {
    await killedIn('resume');
    reboot();
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    host.othersUse.push(at('xvda.img'), at('xvdb.img'));
    const error = await failure(recoverSnapshot(host, { path: memory() }));
    expect(error.undoFailures.filter((told) => told.includes('uses'))).toHaveLength(2);
    expect(existsSync(at('s1-xvda.qcow2'))).toBe(true);
    host.othersUse.length = 0;
    await recoverSnapshot(host, { path: memory() });
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
  });

  it('an overlay is never merged into a base that a domain was started on since', async () => {
    await killedIn('resume');
    host.suspended = false;
    host.write('written on the overlay');
    reboot();
    await host.toolstack.destroy(toDomid(7), { timeoutMs: 1 });
    writeImage(at('xvda.img'), { ...readImage(at('xvda.img')), content: 'newer' });
    const later = Date.now() / 1000 + 3600;
    utimesSync(at('xvda.img'), later, later);
    const error = await failure(recoverSnapshot(host, { path: memory() }));
    expect(error.undoFailures.join()).toMatch(/xvda\.img was written to at .*, after its overlay/);
    expect(contentOf(at('xvda.img'))).toBe('newer');
    expect(contentOf(at('s1-xvda.qcow2'))).toBe('written on the overlay');
    // As the error says: the base's content is to be kept.
    rmSync(at('s1-xvda.qcow2'));
    await recoverSnapshot(host, { path: memory() });
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
    expect(contentOf(at('xvda.img'))).toBe('newer');
  });

  it('a later life of the domain is not paused, resumed or otherwise touched', async () => {
    host.pauses = 1;
    await killedIn('settle');
    reboot();
    host.pauses = 0;
    host.calls.length = 0;
    await recoverSnapshot(host, { path: memory() });
    expect(host.calls.filter((call) => /pause|resume|Suspend|cont/.test(call))).toEqual([]);
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
  });

  it('a journal that never got its first line is removed with the empty file beside it', async () => {
    // In parallel, since each of them waits a second for its first line.
    const left = ['', '\0\0\0\0', '{"format":"xlsnap-jour'].map(async (text, i) => {
      const path = at(`left${i}.save`);
      writeFileSync(`${path}.journal`, text, { mode: 0o600 });
      writeFileSync(`${path}.partial`, '');
      return await recoverSnapshot(host, { path });
    });
    for (const result of await Promise.all(left)) expect(result).toMatchObject({ outcome: 'undone' });
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
  });

  it('lines that were lost or cut off make no difference', async () => {
    await killedIn('resume');
    const [head = ''] = readFileSync(journal(), 'utf8').split('\n');
    writeFileSync(journal(), `${head}\n{"step":"ope`);
    host.suspended = false;
    reboot();
    await recoverSnapshot(host, { path: memory() });
    expect(files()).toEqual(['xvda.img', 'xvdb.img']);
    expect(readImage(at('xvdb.img')).tags).toEqual({});
  });
});

describe('a hold record whose journal has been removed by hand', () => {
  /** Leaves the record of a killed create, and nothing else. */
  async function leftRecord(): Promise<string> {
    await killedIn('settle');
    for (const path of [journal(), `${memory()}.partial`]) rmSync(path);
    const [name = ''] = readdirSync(host.runDirectory);
    return join(host.runDirectory, name);
  }
  const again = async (): Promise<unknown> => {
    const config = snapshotConfig('s1', host.directory, ['internal']);
    return await createSnapshot(host, { domain: 'guest1', config });
  };

  it('a create replaces it if its domain has been restarted', async () => {
    const record = await leftRecord();
    host.reboot();
    await again();
    expect(existsSync(record)).toBe(false);
    expect(files()).toContain('s1.save');
  });

  it('a create replaces it if it was never written', async () => {
    const record = await leftRecord();
    host.suspended = false;
    writeFileSync(record, '');
    await again();
    expect(existsSync(record)).toBe(false);
  });

  it('a create refuses while its domain lives, and recover does what it says', async () => {
    const record = await leftRecord();
    host.suspended = false;
    expect(await failure(again())).toMatchObject({ code: 'HOLD_RECORD' });
    expect(existsSync(record)).toBe(true);
    await recoverAll(host, host.directory);
    expect(existsSync(record)).toBe(false);
    await again();
  });
});

describe('a journal that others could have written', () => {
  it.each<[string, () => void, RegExp]>([
    ['others may write to it', () => chmodSync(journal(), 0o666), /another user/],
    [
      'it was moved',
      () => {
        mkdirSync(at('other'));
        renameSync(journal(), at('other/s1.save.journal'));
        mkdirSync(journal());
        rmSync(journal(), { recursive: true });
      },
      /not here/,
    ],
    ['it is something else', () => writeFileSync(journal(), '{"format":"x"}\n'), /not an xlsnap journal/],
    [
      'it is of a later version',
      () => writeFileSync(journal(), '{"format":"xlsnap-journal","version":2}\n'),
      /version 2/,
    ],
    [
      'it lacks what it must have',
      () => writeFileSync(journal(), '{"format":"xlsnap-journal","version":1}\n'),
      /damaged/,
    ],
    ['it is too large', () => appendFileSync(journal(), ' '.repeat(5 << 20)), /larger/],
  ])('a journal is refused because %s', async (_what, change, message) => {
    await killedIn('resume');
    change();
    const path = existsSync(journal()) ? journal() : at('other/s1.save.journal');
    const error = await failure(recoverSnapshot(host, { path }));
    expect(error).toMatchObject({ code: 'JOURNAL', exitCode: 9 });
    expect(error.message).toMatch(message);
    expect(existsSync(`${memory()}.partial`)).toBe(true);
  });

  it('with an unknown step is read without that step, and nothing is taken for certain', async () => {
    await killedIn('resume');
    appendFileSync(journal(), '{"step":"hold","hold":{"pauses":-1}}\n{"step":"new"}\nnull\n');
    expect(await readJournal(journal())).toMatchObject({ lossy: true });
    await recoverSnapshot(host, { path: memory() });
    expectAsBefore(host, was);
  });
});

describe('recoverAll', () => {
  it('finds the journals of a directory, tries all, then reports those that could not be undone', async () => {
    expect(await recoverAll(host, at('none'))).toEqual([]);
    await killedIn('resume');
    mkdirSync(at('a'));
    writeFileSync(at('a/bad.save.journal'), '{}\n', { mode: 0o600 });
    const error = await failure(recoverAll(host, host.directory));
    expect(error.message).toContain('a/bad.save.journal');
    rmSync(at('a'), { recursive: true });
    expectAsBefore(host, was);
    expect(await recoverAll(host, host.directory)).toEqual([]);
  });

  it('tries all others if the directory of a domain cannot be read', async () => {
    await killedIn('resume');
    mkdirSync(at('a'));
    const { readdir } = fs;
    const failing = vi.spyOn(fs, 'readdir');
    failing.mockImplementation(((path: string, options: object) =>
      path === at('a')
        ? Promise.reject(Object.assign(new Error('EIO: i/o error'), { code: 'EIO' }))
        : Reflect.apply(readdir, fs, [path, options])) as typeof readdir);
    syncBuiltinESMExports();
    const error = await failure(recoverAll(host, host.directory));
    failing.mockRestore();
    syncBuiltinESMExports();
    expect(error).toMatchObject({ code: 'NOT_RECOVERED', exitCode: 14 });
    expect(error.message).toContain(`${at('a')}: EIO`);
    rmSync(at('a'), { recursive: true });
    expectAsBefore(host, was);
  });
});

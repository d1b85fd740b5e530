import { chmod, chown, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { findProcess } from '../../../src/toolstack/process/find.ts';
import { runProgram, searchPath } from '../../../src/toolstack/process/run.ts';

let directory: string;
beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'xlsnap-users-'));
});
afterEach(() => rm(directory, { recursive: true }));

describe('processes of other users', () => {
  const find = () => findProcess(directory, async (read) => (await read('comm')) === 'xl\n');
  beforeEach(async () => {
    await mkdir(join(directory, '7'));
    await writeFile(join(directory, '7', 'comm'), 'xl\n');
  });

  it('can be found if they are of our own user', async () => {
    expect(await find()).toBe(7);
  });

  it.runIf(process.getuid?.() === 0)('are ignored if they are of another user', async () => {
    await chown(join(directory, '7'), 65534, 65534);
    expect(await find()).toBeUndefined();
  });
});

describe('where programs are looked for', () => {
  const before = process.env['PATH'];
  afterEach(() => {
    process.env['PATH'] = before;
  });

  it("includes root's directories if PATH lacks them", () => {
    expect(searchPath('/usr/bin:/bin')).toBe('/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin');
    expect(searchPath('/sbin::/bin')).toBe('/sbin:/bin:/usr/local/sbin:/usr/sbin');
  });

  it('is PATH first, and is named if a program is missing', async () => {
    const program = join(directory, 'says-its-path');
    await writeFile(program, '#!/bin/sh\necho "$PATH"\n');
    await chmod(program, 0o755);
    process.env['PATH'] = `${directory}:/bin`;
    const { stdout } = await runProgram('says-its-path', [], { timeoutMs: 10_000 });
    expect(stdout.trim()).toBe(`${directory}:/bin:/usr/local/sbin:/usr/sbin:/sbin`);
    await expect(runProgram('no-such-program', [], { timeoutMs: 10_000 })).rejects.toThrow(
      /no-such-program in .*\/sbin/,
    );
  });
});

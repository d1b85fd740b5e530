import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import { planCreate } from '../../../../src/snapshot/create/create.ts';
import { FakeHost } from '../../../../src/testing/fake-host.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'xlsnap-preflight-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

it.each([
  ['the memory file is an image in use', 'xvda.img', 'o.qcow2', 'FILE_EXISTS'],
  ['the overlay is the memory file', 's1.save', 's1.save', 'PATH_TWICE'],
  ['the overlay is the memory file as it is written', 's1.save', 's1.save.partial', 'PATH_TWICE'],
  ['the overlay is the cfgfile', 's1.save', 's1.save.cfg', 'PATH_TWICE'],
  ['the overlay has no directory', 's1.save', 'none/o.qcow2', 'NO_DIRECTORY'],
])('%s', async (_, memory, overlay, code) => {
  const host = new FakeHost({ directory });
  const before = readdirSync(directory);
  const config = parseConfig(
    `name="s1"\nmemory_path="${join(directory, memory)}"\ndisks=['${join(directory, overlay)},qcow2,xvda']`,
    'snap.cfg',
  );
  await expect(planCreate(host, { domain: 'guest1', config })).rejects.toMatchObject({ code });
  expect(readdirSync(directory)).toEqual(before);
});

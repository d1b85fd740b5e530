import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';
import { expect, test } from 'vitest';

const MIB = 2 ** 20;

test('a guest of 64 GiB takes less than 150 MiB of memory', async () => {
  const directory = mkdtempSync(join(tmpdir(), 'xlsnap-bound-'));
  try {
    const outfile = join(directory, 'big-guest.mjs');
    const entry = join(import.meta.dirname, '../../../support/big-guest.ts');
    await build({
      entryPoints: [entry],
      outfile,
      bundle: true,
      platform: 'node',
      format: 'esm',
      banner: {
        js: "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);",
      },
    });
    const peak = Number(execFileSync(process.execPath, [outfile], { encoding: 'utf8' }));
    // Mapped pages come on top, at most 4 batches of 4 MiB, and Xen's libraries with some 8 MiB.
    expect(peak / MIB).toBeLessThan(150 - 16 - 8);
  } finally {
    rmSync(directory, { recursive: true });
  }
});

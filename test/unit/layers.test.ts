import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..', '..');
const biome = join(root, 'node_modules', '.bin', 'biome');

/** The rules and the folders that they are for, in a place where no other check sees what is planted. */
const copy = mkdtempSync(join(tmpdir(), 'xlsnap-layers-'));
cpSync(join(root, 'biome.json'), join(copy, 'biome.json'));
afterAll(() => rmSync(copy, { recursive: true }));

/** Lints a file in a folder of src/. */
function lintPlanted(folder: string, source: string): { ok: boolean; output: string } {
  const directory = join(copy, 'src', folder, 'planted');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, 'planted.ts'), source);
  const run = spawnSync(biome, ['lint', '--colors=off', '--error-on-warnings', 'src'], {
    cwd: copy,
    encoding: 'utf8',
  });
  rmSync(join(copy, 'src'), { recursive: true });
  return { ok: run.status === 0, output: run.stdout + run.stderr };
}

describe('the import table', () => {
  it('is what biome.json enforces', () => {
    execFileSync(process.execPath, [join(root, 'scripts', 'layers.mjs'), '--check']);
  });

  it.each([
    ['savefmt', '../../qmp/client.ts'],
    ['savefmt', 'koffi'],
    ['qmp', '../../xenctrl/xc.ts'],
    ['snapshot', '../../xenctrl/xc.ts'],
    ['snapshot', '../../toolstack/host.ts'],
    ['core', '../../savefmt/libxc.ts'],
    ['toolstack', '../../cli/main.ts'],
    ['xenctrl', 'commander'],
  ])('refuses that src/%s imports %s', (folder, from) => {
    const { ok, output } = lintPlanted(
      folder,
      `import { x } from '${from}';\nexport const y: unknown = x;\n`,
    );
    expect(output).toContain('may import only');
    expect(ok).toBe(false);
  });

  it('accepts that src/savefmt imports src/core', () => {
    const source = "import { PAGE_SIZE } from '../../core/brand.ts';\nexport const y: number = PAGE_SIZE;\n";
    expect(lintPlanted('savefmt', source)).toMatchObject({ ok: true });
  });

  it('refuses a promise that nobody waits for', () => {
    const { ok, output } = lintPlanted(
      'core',
      'async function f(): Promise<void> {}\nexport function g(): void {\n  f();\n}\n',
    );
    expect(output).toContain('noFloatingPromises');
    expect(ok).toBe(false);
  });
});

import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';

const root = join(import.meta.dirname, '..', '..');
const biome = join(root, 'node_modules', '.bin', 'biome');

/** Lints one planted file inside src/, where the rules of its folder hold. */
function lintPlanted(folder: string, source: string): { ok: boolean; output: string } {
  const dir = mkdtempSync(join(root, 'src', folder, 'planted-'));
  planted.push(dir);
  const file = join(dir, 'planted.ts');
  writeFileSync(file, source);
  const run = spawnSync(biome, ['lint', '--colors=off', file], { cwd: root, encoding: 'utf8' });
  return { ok: run.status === 0, output: run.stdout + run.stderr };
}

const planted: string[] = [];
afterEach(() => {
  for (const dir of planted.splice(0)) rmSync(dir, { recursive: true, force: true });
});

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

  it('lets src/savefmt import src/core', () => {
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

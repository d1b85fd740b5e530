/** Installs xlsnap in dom0. */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Lab } from './lab.ts';

const root = join(import.meta.dirname, '..');

/**
 * Packs xlsnap and installs the tarball in dom0, with its dependencies, as a user would do it:
 * /usr/bin/xlsnap.
 */
export async function installXlsnap(lab: Lab): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'xlsnap-pack-'));
  try {
    const npm = (...args: string[]): string =>
      execFileSync('npm', [...args, '--loglevel=error', '--prefer-offline', '--no-audit', '--no-fund'], {
        cwd: root,
        encoding: 'utf8',
      });
    const tarball = npm('pack', '--pack-destination', scratch).trim().split('\n').at(-1) ?? '';
    npm('install', '--prefix', join(scratch, 'xlsnap'), '--omit=dev', join(scratch, tarball));
    await lab.run('rm -rf /opt/xlsnap');
    await lab.copyIn(join(scratch, 'xlsnap'), '/opt/xlsnap');
    await lab.run('ln -sf /opt/xlsnap/node_modules/.bin/xlsnap /usr/bin/xlsnap');
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}

// Compiles src/ to dist/, with declarations.
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { ensureDependencies, root } from './dependencies.mjs';

ensureDependencies();
rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = spawnSync('npx', ['tsc', '-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' });
const main = join(root, 'dist', 'cli', 'main.js');
if (tsc.status === 0 && existsSync(main)) chmodSync(main, 0o755);
process.exit(tsc.status ?? 1);

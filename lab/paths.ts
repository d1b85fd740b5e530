/** The folders of the lab. */
import { mkdirSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

/** Returns the folder for everything that the lab creates; never inside the checkout. */
export function labDir(env: NodeJS.ProcessEnv = process.env): string {
  const own = env['XLSNAP_LAB_DIR'];
  if (own !== undefined && own !== '') return own;
  const cache = env['XDG_CACHE_HOME'];
  return join(cache !== undefined && cache !== '' ? cache : join(homedir(), '.cache'), 'xlsnap-lab');
}

export interface Paths {
  readonly dir: string;
  /** Folder with one folder for each image, by key. */
  readonly images: string;
  /** Folder with one folder for each saved state, by key. */
  readonly warm: string;
  /** Folder of the running lab: state, consoles, sockets. */
  readonly run: string;
  readonly failures: string;
  /** Folder of a QEMU that is newer than this machine's. */
  readonly emulator: string;
  readonly timings: string;
}

export function labPaths(dir: string = labDir()): Paths {
  const paths: Paths = {
    dir,
    images: join(dir, 'images'),
    warm: join(dir, 'warm'),
    run: join(dir, 'run'),
    failures: join(dir, 'failures'),
    emulator: join(dir, 'emulator'),
    timings: join(dir, 'timings.json'),
  };
  for (const folder of [paths.images, paths.warm, paths.run, paths.failures]) {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  }
  return paths;
}

/** File systems in files, which a test mounts. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { describeError } from '../../src/core/errors.ts';

const mounted: string[] = [];

/** Mounts a new file system of 400 MiB. @returns why that is not possible here */
export function mount(type: string, at: string): string | undefined {
  try {
    mkdirSync(at);
    writeFileSync(`${at}.img`, '');
    truncateSync(`${at}.img`, 400 * 2 ** 20);
    execFileSync(`mkfs.${type}`, ['-q', `${at}.img`], { stdio: 'pipe' });
    execFileSync('mount', ['-o', 'loop', `${at}.img`, at], { stdio: 'pipe' });
    mounted.push(at);
    return undefined;
  } catch (error) {
    return describeError(error).split('\n')[0];
  }
}

/** Unmounts all of them. */
export function unmountAll(): void {
  for (const at of mounted.splice(0)) execFileSync('umount', [at]);
}

import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';

/**
 * Puts a shell script in front of the programs that this process finds by name.
 * @returns a function that removes it
 */
export function fakeProgram(directory: string, name: string, script: string): () => void {
  const bin = join(directory, 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, name), `#!/bin/sh\n${script}\n`);
  chmodSync(join(bin, name), 0o755);
  const before = process.env['PATH'] ?? '';
  process.env['PATH'] = `${bin}${delimiter}${before}`;
  return () => {
    process.env['PATH'] = before;
  };
}

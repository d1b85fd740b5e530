/** The version of this package. */
import { readFileSync } from 'node:fs';

/** Reads the version from package.json, which is two levels up in both src/ and dist/. */
export function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

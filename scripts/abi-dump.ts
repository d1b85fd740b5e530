// Writes fixtures/abi/<release>.json from installed headers of Xen: node scripts/run.mjs scripts/abi-dump.ts
// RELEASE [INCLUDE_DIRECTORY]
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { probeAbi } from '../test/support/abi-probe.ts';

const [release, include] = process.argv.slice(2);
if (release === undefined || !/^\d+\.\d+$/.test(release)) {
  console.error('usage: node scripts/run.mjs scripts/abi-dump.ts RELEASE [INCLUDE_DIRECTORY]');
  process.exit(2);
}
const file = join(import.meta.dirname, '..', 'fixtures', 'abi', `${release}.json`);
writeFileSync(file, `${JSON.stringify(probeAbi(include), null, 2)}\n`);
console.log(file);

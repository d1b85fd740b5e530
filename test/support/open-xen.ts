/** A program for a process of its own: opens the control interface and prints what it found, as JSON on a line. */
import { toDomid } from '../../src/core/brand.ts';
import { XlsnapError } from '../../src/core/errors.ts';
import { XenControl } from '../../src/xenctrl/index.ts';

try {
  await using xen = await XenControl.open({ untested: process.argv.includes('--untested') });
  const { version, proof } = xen;
  const guest = await xen.domainInfo(toDomid(5));
  const pv = guest && (await xen.openPv(toDomid(5), guest).catch((error: XlsnapError) => error.code));
  console.log(JSON.stringify({ version, proof, uuid: guest?.uuid, memory: guest?.memoryBytes, pv }));
} catch (error) {
  if (!(error instanceof XlsnapError)) throw error;
  console.log(JSON.stringify(error.toJSON()));
}

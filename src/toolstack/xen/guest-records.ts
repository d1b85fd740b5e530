/** Makes the records that guests of all types have. */
import type { Domid } from '../../core/brand.ts';
import { type LibxcStateRecord, parseCpuidLeaves, parseMsrEntries } from '../../savefmt/index.ts';
import type { XenControl } from '../../xenctrl/index.ts';

/** libxenctrl, or a test's replacement. */
export type Xen = Pick<XenControl, keyof XenControl>;

/** Makes the records of the CPU policy; libxc writes no empty records. */
export async function cpuPolicyRecords(xen: Xen, domid: Domid): Promise<LibxcStateRecord[]> {
  const { leaves, msrs } = await xen.cpuPolicy(domid);
  const records: LibxcStateRecord[] = [];
  if (leaves.length > 0) records.push({ name: 'X86_CPUID_POLICY', leaves: parseCpuidLeaves(leaves) });
  if (msrs.length > 0) records.push({ name: 'X86_MSR_POLICY', entries: parseMsrEntries(msrs) });
  return records;
}

/** Makes the record of the time stamp counter. */
export async function tscRecord(xen: Xen, domid: Domid): Promise<LibxcStateRecord> {
  return { name: 'X86_TSC_INFO', ...(await xen.tscInfo(domid)), reserved: 0 };
}

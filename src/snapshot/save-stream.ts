/** What stands in a save file around the memory: who the guest is before it, in which state it is behind it. */
import {
  EMULATOR,
  encodePrefix,
  encodeSuffix,
  type LibxcStateRecord,
  type LibxlRecord,
  parseCpuidLeaves,
  parseMsrEntries,
} from '../savefmt/index.ts';
import type { Guest, XenVersion } from './ports.ts';

/** State that QEMU and libxl keep for an HVM guest. */
export interface EmulatorState {
  /** Content of the EMULATOR_XENSTORE_DATA record; empty: no such record. */
  readonly xenstoreData: Uint8Array;
  /** Content of the EMULATOR_CONTEXT record. */
  readonly context: Uint8Array;
}

/**
 * A PVH or HVM guest's save file up to its memory. The CPU policy never changes, so this can be made while it runs.
 * @param configJson libxl's JSON of the domain's configuration
 * @returns a multiple of 4096 octets
 * @throws XenCallError
 */
export async function guestPrefix(guest: Guest, configJson: string, xen: XenVersion): Promise<Uint8Array> {
  const { leaves, msrs } = await guest.cpuPolicy();
  const staticRecords: LibxcStateRecord[] = [];
  // libxc writes no empty records.
  if (leaves.length > 0) staticRecords.push({ name: 'X86_CPUID_POLICY', leaves: parseCpuidLeaves(leaves) });
  if (msrs.length > 0) staticRecords.push({ name: 'X86_MSR_POLICY', entries: parseMsrEntries(msrs) });
  return encodePrefix({
    configJson,
    guestType: 'hvm',
    xenMajor: xen.major,
    xenMinor: xen.minor,
    staticRecords,
  });
}

/**
 * A suspended PVH or HVM guest's save file behind its memory, to the end; records in the order of libxc and libxl.
 * @param emulator HVM only
 * @throws XenCallError
 */
export async function guestSuffix(guest: Guest, emulator?: EmulatorState): Promise<Uint8Array> {
  const records: LibxcStateRecord[] = [
    { name: 'X86_TSC_INFO', ...(await guest.tscInfo()), reserved: 0 },
    { name: 'HVM_CONTEXT', data: await guest.hvmContext() },
  ];
  const params = await guest.hvmParams();
  if (params.length > 0) {
    records.push({
      name: 'HVM_PARAMS',
      reserved: 0,
      params: params.map(({ index, value }) => ({ index: BigInt(index), value })),
    });
  }
  const libxlRecords: LibxlRecord[] = [];
  if (emulator !== undefined) {
    const header = { emulatorId: EMULATOR.qemuUpstream, index: 0 };
    const { xenstoreData, context } = emulator;
    if (xenstoreData.length > 0) {
      libxlRecords.push({ name: 'EMULATOR_XENSTORE_DATA', ...header, data: xenstoreData });
    }
    libxlRecords.push({ name: 'EMULATOR_CONTEXT', ...header, data: context });
  }
  return encodeSuffix({ records, libxlRecords });
}

/** The parts of a save file before and after the memory: who the guest is, and in which state it is. */

import type { XenVersion } from '../../core/xen.ts';
import { EMULATOR, encodePrefix, encodeSuffix, type LibxlRecord } from '../../savefmt/index.ts';
import type { Guest } from '../ports.ts';

/** State that QEMU and libxl keep for an HVM guest. */
export interface EmulatorState {
  /** Content of the EMULATOR_XENSTORE_DATA record; empty: no such record. */
  readonly xenstoreData: Uint8Array;
  /** Content of the EMULATOR_CONTEXT record. */
  readonly context: Uint8Array;
}

/**
 * A guest's save file up to its memory. Of a PVH or HVM guest none of it ever changes; of a PV guest it is right once the
 * guest has settled. Its length is always the same.
 * @param configJson libxl's JSON of the domain's configuration
 * @returns a multiple of 4096 bytes
 * @throws {DomainError} If the guest no longer exists
 */
export async function guestPrefix(guest: Guest, configJson: string, xen: XenVersion): Promise<Uint8Array> {
  return encodePrefix({
    configJson,
    guestType: guest.streamType,
    xenMajor: xen.major,
    xenMinor: xen.minor,
    staticRecords: await guest.staticRecords(),
    startRecords: await guest.startRecords(),
  });
}

/**
 * A suspended guest's save file behind its memory, to the end.
 * @param emulator HVM only
 * @throws {DomainError} If the guest no longer exists
 */
export async function guestSuffix(guest: Guest, emulator?: EmulatorState): Promise<Uint8Array> {
  const libxlRecords: LibxlRecord[] = [];
  if (emulator !== undefined) {
    const header = { emulatorId: EMULATOR.qemuUpstream, index: 0 };
    const { xenstoreData, context } = emulator;
    if (xenstoreData.length > 0) {
      libxlRecords.push({ name: 'EMULATOR_XENSTORE_DATA', ...header, data: xenstoreData });
    }
    libxlRecords.push({ name: 'EMULATOR_CONTEXT', ...header, data: context });
  }
  return encodeSuffix({ records: await guest.stateRecords(), libxlRecords });
}

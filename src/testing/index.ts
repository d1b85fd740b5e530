/**
 * Simulates, for tests without Xen, a host with domains in which any call can be made to fail, QEMU's end of QMP, and
 * xenstored. xlsnap's own tests use these stand-ins.
 *
 * @example
 * ```ts
 * import { createSnapshot, XlsnapError } from 'xlsnap';
 * import { FakeHost } from 'xlsnap/testing';
 *
 * const host = new FakeHost({ directory });
 * host.fault = (call) => {
 *   if (call === 'snapshotDisks') throw new Error('the disk is full');
 * };
 * await createSnapshot(host, { domain: 'guest1' }).catch(() => undefined);
 * console.log(host.runs, host.calls);
 * ```
 *
 * @module
 */
export {
  FAKE_GREETING,
  type FakeQmpHandler,
  FakeQmpRefusal,
  FakeQmpServer,
} from '../qmp/testing.ts';
export type { Pool, Volume, VolumeList, Volumes } from '../snapshot/storage/volumes.ts';
export { FakeXenstored } from '../xenstore/testing.ts';
export type { XenstoreMessage } from '../xenstore/wire.ts';
export { FakeDomain } from './fake-domain.ts';
export { FakeGuest, type FakeGuestCalls } from './fake-guest.ts';
export {
  contentOf,
  FAKE_UUID,
  FakeHost,
  type FakeImage,
  type FakeOptions,
  readImage,
  writeImage,
} from './fake-host.ts';
export { FakeVolumes } from './fake-volumes.ts';

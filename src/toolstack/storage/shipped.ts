/** The storages that xlsnap brings. */
import type { DiskStorage } from '../../snapshot/storage/port.ts';
import { ReflinkStorage } from '../../snapshot/storage/reflink.ts';
import { ThickStorage } from '../../snapshot/storage/thick.ts';
import { ThinStorage } from '../../snapshot/storage/thin.ts';
import { FicloneClones } from './clones.ts';
import { Lvm } from './lvm.ts';

export function shippedStorages(): readonly DiskStorage[] {
  const lvm = new Lvm();
  return [new ReflinkStorage(new FicloneClones()), new ThinStorage(lvm), new ThickStorage(lvm)];
}

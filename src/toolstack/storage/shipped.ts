/** The storages that xlsnap brings. */
import type { DiskStorage } from '../../snapshot/storage/port.ts';
import { ReflinkStorage } from '../../snapshot/storage/reflink.ts';
import { ThinStorage } from '../../snapshot/storage/thin.ts';
import { FicloneClones } from './clones.ts';
import { Lvm } from './lvm.ts';

export function shippedStorages(): readonly DiskStorage[] {
  return [new ReflinkStorage(new FicloneClones()), new ThinStorage(new Lvm())];
}

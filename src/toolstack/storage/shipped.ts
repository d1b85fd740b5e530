/** The storages that xlsnap brings. */
import type { DiskStorage } from '../../snapshot/storage/port.ts';
import { ReflinkStorage } from '../../snapshot/storage/reflink.ts';
import { FicloneClones } from './clones.ts';

export function shippedStorages(): readonly DiskStorage[] {
  return [new ReflinkStorage(new FicloneClones())];
}

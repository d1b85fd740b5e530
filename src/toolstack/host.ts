/** Opens this machine as a host: real Xen, xl, QEMU and qemu-img. */
import type { Host, Hypervisor, Images, Toolstack } from '../snapshot/ports.ts';
import type { DiskStorage } from '../snapshot/storage/port.ts';
import { writtenExtents } from '../xenctrl/extents.ts';
import { NativeXxh3 } from '../xenctrl/xxh3.ts';
import { XenstoreClient } from '../xenstore/client.ts';
import { QemuImages } from './qemu/images.ts';
import { FicloneMemoryClones } from './storage/memory-clones.ts';
import { shippedStorages } from './storage/shipped.ts';
import { XenHypervisor } from './xen/hypervisor.ts';
import { XlToolstack } from './xl/toolstack.ts';

export interface HostOptions {
  /** Creates the toolstack. Default: `xl`. For one of your own, extend `LibxlToolstack`. */
  readonly toolstack?: (hypervisor: Hypervisor, xenstore: XenstoreClient) => Toolstack;
  /**
   * Whether a Xen that is newer than all supported releases may be used, after a self-test, for HVM and PVH guests. Default:
   * false.
   */
  readonly untestedXen?: boolean | undefined;
  /** Storages of your own, which are asked before the shipped ones. */
  readonly storages?: readonly DiskStorage[];
}

/**
 * Opens this machine as a host: a dom0 of Xen, with QEMU, and xl unless the caller brings another toolstack.
 * @throws {EnvironmentError} If this is not a dom0, or something is missing.
 * @throws {XenstoreConnectError} If xenstored cannot be reached.
 */
export async function openHost(options: HostOptions = {}): Promise<Host> {
  const xenstore = await XenstoreClient.connect();
  try {
    const { toolstack = (...parts) => new XlToolstack(...parts), untestedXen = false } = options;
    const hypervisor = await XenHypervisor.open(xenstore, { untested: untestedXen });
    return new XenHost(hypervisor, xenstore, toolstack(hypervisor, xenstore), options.storages);
  } catch (error) {
    await xenstore.close();
    throw error;
  }
}

class XenHost implements Host {
  readonly hypervisor: Hypervisor;
  readonly toolstack: Toolstack;
  readonly images: Images = new QemuImages();
  readonly storages: readonly DiskStorage[];
  readonly memoryClones = new FicloneMemoryClones();
  readonly extents = writtenExtents;
  readonly xxh3 = () => NativeXxh3.make();
  readonly #close: () => Promise<void>;

  constructor(
    hypervisor: XenHypervisor,
    xenstore: XenstoreClient,
    toolstack: Toolstack,
    storages: readonly DiskStorage[] = [],
  ) {
    this.storages = [...storages, ...shippedStorages()];
    this.hypervisor = hypervisor;
    this.toolstack = toolstack;
    this.#close = async () => {
      await hypervisor[Symbol.asyncDispose]();
      await xenstore.close();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

import type { Domid } from '../../core/brand.ts';
import { EnvironmentError } from '../../core/errors.ts';
import { type DiskImage, type LibxlConfig, withImages } from '../../memfile/libxl-config.ts';
import { recordsOf, textOf } from '../../memfile/libxl-fields.ts';
import { queryBlock, queryBlockedReasons } from '../../qmp/commands.ts';
import type {
  CreateFindings,
  DeviceModel,
  DomainDisk,
  DomainState,
  Guardian,
  Hypervisor,
  ImageUse,
  RestoreFacts,
  RestoreFindings,
  RestoreOptions,
  Toolstack,
} from '../../snapshot/ports.ts';
import type { XenstoreClient } from '../../xenstore/client.ts';
import { deviceModelObstacles, migrationObstacles, suspendObstacles } from '../create-checks/checks.ts';
import { foreignDrives } from '../create-checks/foreign-drives.ts';
import { startGuardian } from '../guardian.ts';
import { findUnconnected } from '../qemu/connected-disks.ts';
import { connectQemu, QemuDeviceModel } from '../qemu/device-model.ts';
import { readStoredDisks, resolveDisks } from '../qemu/disks.ts';
import { checkRestore } from '../restore-checks/checks.ts';
import { serviceWarnings } from '../restore-checks/service.ts';
import { findPlace } from '../storage/places.ts';
import { lockDomain } from './domain-lock.ts';
import { domainNames, findByName, findByUuid, findDomain } from './find-domain.ts';
import { imagesInUse } from './images-in-use.ts';
import { SaverSearch } from './savers.ts';
import { editStoredConfig } from './userdata.ts';

/** Time limit for a restored domain's disks to connect, in milliseconds. */
const CONNECT_MS = 5000;

/**
 * The part of a toolstack that all libxl-based ones share: names and disks in xenstore, QEMU by QMP, locks,
 * and the configuration that libxl stores. The rest is abstract: how a domain is described, destroyed and
 * restored.
 *
 * For a toolstack of your own, extend this class and pass it to `openHost`. A toolstack without libxl has no
 * configuration in /var/lib/xen, and overrides `repointDisks` too.
 */
export abstract class LibxlToolstack implements Toolstack {
  protected readonly hypervisor: Hypervisor;
  protected readonly xenstore: XenstoreClient;
  readonly #savers = new SaverSearch();
  readonly #userdata: string | undefined;
  readonly #runDirectory: string | undefined;

  /**
   * Takes the connections.
   * @param userdata directory of libxl's configurations. Default: `/var/lib/xen`.
   * @param runDirectory directory of locks. Default: `/run/xlsnap`.
   */
  constructor(hypervisor: Hypervisor, xenstore: XenstoreClient, userdata?: string, runDirectory?: string) {
    this.hypervisor = hypervisor;
    this.xenstore = xenstore;
    this.#userdata = userdata;
    this.#runDirectory = runDirectory;
  }

  /** Does what `Toolstack.domainConfig` says. */
  abstract domainConfig(domid: Domid): Promise<LibxlConfig>;

  /** Does what `Toolstack.destroy` says. */
  abstract destroy(
    domid: Domid,
    options: { timeoutMs: number; signal?: AbortSignal | undefined },
  ): Promise<void>;

  /** Does what `Toolstack.restore` says. */
  abstract restore(
    memoryPath: string,
    config: LibxlConfig | undefined,
    options: RestoreOptions,
  ): Promise<Domid>;

  findDomain(nameOrDomid: string): Promise<Domid | undefined> {
    return findDomain(this.xenstore, nameOrDomid);
  }

  findByName(name: string): Promise<Domid | undefined> {
    return findByName(this.xenstore, name);
  }

  domainNames(): Promise<readonly string[]> {
    return domainNames(this.xenstore);
  }

  findByUuid(uuid: string): Promise<Domid | undefined> {
    return findByUuid(this.xenstore, uuid);
  }

  lock(
    keys: readonly string[],
    options: { readonly what: string; readonly timeoutMs?: number },
  ): Promise<AsyncDisposable> {
    return lockDomain(keys, { ...options, runDirectory: this.#runDirectory });
  }

  guard(): Guardian {
    return startGuardian();
  }

  saver(domid: Domid, options?: { readonly onlyNew?: boolean }): Promise<number | undefined> {
    return this.#savers.find(domid, options);
  }

  imagesInUse(): Promise<readonly ImageUse[]> {
    return imagesInUse(this.xenstore);
  }

  async disks(domid: Domid, config: LibxlConfig): Promise<readonly DomainDisk[]> {
    await using qmp = await connectQemu(domid);
    const disks = await resolveDisks(domid, config, this.xenstore, qmp);
    return await Promise.all(disks.map(async (disk) => ({ ...disk, place: await findPlace(disk) })));
  }

  async openDeviceModel(domid: Domid, config: LibxlConfig): Promise<DeviceModel | undefined> {
    const qmp = await connectQemu(domid);
    if (qmp === undefined) return undefined;
    try {
      return new QemuDeviceModel(qmp, await resolveDisks(domid, config, this.xenstore, qmp));
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  async createFindings(domain: DomainState, config: LibxlConfig): Promise<CreateFindings> {
    const { domid, type } = domain;
    const model = await deviceModelObstacles(domid, type, config, this.xenstore);
    const suspend = await suspendObstacles(domid, this.xenstore);
    // A QEMU that answers here then has nothing of the guest's machine.
    await using qmp = model.length > 0 ? undefined : await connectQemu(domid);
    if (qmp === undefined) return { obstacles: [...model, ...suspend], unknownDrives: [], qemu: undefined };
    const disks = await resolveDisks(domid, config, this.xenstore, qmp);
    const scripted = recordsOf(config, 'disks').some((disk) => textOf(disk, 'script') !== undefined);
    const { major, minor, micro } = qmp.version;
    return {
      obstacles: [...suspend, ...(type === 'hvm' ? migrationObstacles(await queryBlockedReasons(qmp)) : [])],
      unknownDrives: foreignDrives(await queryBlock(qmp), disks, scripted),
      qemu: `${major}.${minor}.${micro}`,
    };
  }

  /**
   * Checks what a restore needs. Missing memory is not taken from dom0; override `takesFromDom0` if yours
   * does so.
   */
  async restoreFindings(facts: RestoreFacts): Promise<RestoreFindings> {
    const { hypervisor, xenstore } = this;
    const world = { hypervisor, xenstore, takesFromDom0: await this.takesFromDom0() };
    const findings = await checkRestore(world, facts);
    return { ...findings, warnings: [...findings.warnings, ...(await serviceWarnings())] };
  }

  /** Returns whether `restore` takes missing memory from dom0. */
  protected takesFromDom0(): Promise<boolean> {
    return Promise.resolve(false);
  }

  unconnectedDisks(
    domid: Domid,
  ): Promise<readonly { readonly vdev: string; readonly path: string | undefined }[]> {
    return findUnconnected(domid, this.xenstore, CONNECT_MS);
  }

  async emulatorXenstoreData(domid: Domid): Promise<Uint8Array> {
    // As in tools/libs/light/libxl_dom_save.c: libxl__save_emulator_xenstore_data. Recent QEMUs store nothing
    // there.
    const root = `/local/domain/0/device-model/${domid}`;
    const strings: string[] = [];
    for (const entry of await this.xenstore.listMaybe(`${root}/physmap`)) {
      for (const part of ['start_addr', 'size', 'name']) {
        const key = `physmap/${entry}/${part}`;
        strings.push(key, await this.xenstore.read(`${root}/${key}`));
      }
    }
    return new TextEncoder().encode(strings.map((text) => `${text}\0`).join(''));
  }

  async repointDisks(
    domid: Domid,
    images: readonly DiskImage[],
    { lockTimeoutMs }: { readonly lockTimeoutMs?: number } = {},
  ): Promise<void> {
    const state = await this.hypervisor.domainState(domid);
    if (state === undefined) {
      throw new EnvironmentError('DOMAIN_GONE', `domain ${domid} no longer exists`, { domid });
    }
    const stored = await readStoredDisks(domid, this.xenstore);
    await this.xenstore.transaction(async (access) => {
      for (const { vdev, path, format } of images) {
        const disk = stored.find((candidate) => candidate.vdev === vdev);
        if (disk === undefined) continue;
        const params = `${toParamsFormat(format)}:${path}`;
        await access.write(`/libxl/${domid}/device/vbd/${disk.devid}/params`, params);
        if (disk.backend !== undefined) await access.write(`${disk.backend.path}/params`, params);
      }
    });
    const stated = images.map((image) => ({ ...image, format: toConfigFormat(image.format) }));
    await editStoredConfig(state, (config) => withImages(config, stated), {
      directory: this.#userdata,
      lockTimeoutMs,
    });
  }
}

/** Returns libxl's name of one of QEMU's formats, for configurations (libxl_types.idl: libxl_disk_format). */
function toConfigFormat(format: string): string {
  return format === 'vpc' ? 'vhd' : format;
}

/** Returns libxl's name of one of QEMU's formats, for `params` (tools/libs/light/libxl_device.c). */
function toParamsFormat(format: string): string {
  return format === 'raw' ? 'aio' : toConfigFormat(format);
}

import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Domid } from '../core/brand.ts';
import { FileSource } from '../core/byte-source.ts';
import { DomainError, describeError, EnvironmentError } from '../core/errors.ts';
import { encodeXlHeader, makeXlHeader, readXlHeader, xlConfigText } from '../savefmt/index.ts';
import { domainIdentity, parseLibxlConfig, withImages } from '../snapshot/libxl-config.ts';
import { printLibxlJson } from '../snapshot/libxl-json.ts';
import type {
  DeviceModel,
  DiskImage,
  DomainDisk,
  Host,
  Hypervisor,
  Images,
  LibxlConfig,
  Toolstack,
} from '../snapshot/ports.ts';
import { lockFile } from '../xenctrl/flock.ts';
import { XenstoreClient } from '../xenstore/client.ts';
import { isXenstoreErrno } from '../xenstore/errors.ts';
import { connectQemu, QemuDeviceModel } from './device-model.ts';
import { readStoredDisks, resolveDisks } from './disks.ts';
import { XenHypervisor } from './hypervisor.ts';
import { editStoredConfig } from './libxl-userdata.ts';
import { QemuImages } from './qemu-img.ts';
import { destroyDomain, domainConfig, findDomain } from './xl.ts';
import { xlRestore } from './xl-restore.ts';

/** Gone with a reboot, as are the processes that hold locks. */
export const LOCK_DIR = '/run/lock';
/** How long removing a half-built domain may take. */
const REMOVE_TIMEOUT_MS = 60_000;

/**
 * The host this runs on: Xen's dom0 with xl and QEMU.
 * @throws EnvironmentError, XenstoreConnectError when this is no dom0, or something of it is missing
 */
export async function openHost(): Promise<Host> {
  const xenstore = await XenstoreClient.connect();
  try {
    const hypervisor = await XenHypervisor.open(xenstore);
    return new XlHost(hypervisor, xenstore);
  } catch (error) {
    await xenstore.close();
    throw error;
  }
}

class XlHost implements Host {
  readonly hypervisor: Hypervisor;
  readonly toolstack: Toolstack;
  readonly images: Images = new QemuImages();
  readonly #close: () => Promise<void>;

  constructor(hypervisor: XenHypervisor, xenstore: XenstoreClient) {
    this.hypervisor = hypervisor;
    this.toolstack = new XlToolstack(hypervisor, xenstore);
    this.#close = async () => {
      await hypervisor[Symbol.asyncDispose]();
      await xenstore.close();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#close();
  }
}

/** The toolstack port on xl, xenstore and QMP. */
export class XlToolstack implements Toolstack {
  readonly #hypervisor: Hypervisor;
  readonly #xenstore: XenstoreClient;
  readonly #userdata: string | undefined;

  /** @param userdata where libxl keeps its configurations, if not in its usual place */
  constructor(hypervisor: Hypervisor, xenstore: XenstoreClient, userdata?: string) {
    this.#hypervisor = hypervisor;
    this.#xenstore = xenstore;
    this.#userdata = userdata;
  }

  findDomain(nameOrDomid: string): Promise<Domid | undefined> {
    return findDomain(this.#xenstore, nameOrDomid);
  }

  async lock(uuid: string): Promise<AsyncDisposable> {
    const path = join(LOCK_DIR, `xlsnap-${uuid}.lock`);
    try {
      const lock = await lockFile(path, 0);
      await writeFile(path, `${process.pid}\n`);
      return lock;
    } catch (error) {
      if (!(error instanceof EnvironmentError && error.code === 'LOCK_BUSY')) throw error;
      const pid = (await readFile(path, 'utf8').catch(() => '')).trim();
      throw new DomainError(
        'DOMAIN_BUSY',
        `another xlsnap works on the domain${pid === '' ? '' : ` (pid ${pid})`}`,
        {
          hint: 'wait for it to end',
        },
      );
    }
  }

  domainConfig(domid: Domid): Promise<LibxlConfig> {
    return domainConfig(domid);
  }

  async disks(domid: Domid, config: LibxlConfig): Promise<readonly DomainDisk[]> {
    await using qmp = await connectQemu(domid);
    return await resolveDisks(domid, config, this.#xenstore, qmp);
  }

  async openDeviceModel(domid: Domid, config: LibxlConfig): Promise<DeviceModel | undefined> {
    const qmp = await connectQemu(domid);
    if (qmp === undefined) return undefined;
    try {
      return new QemuDeviceModel(qmp, await resolveDisks(domid, config, this.#xenstore, qmp));
    } catch (error) {
      await qmp.close();
      throw error;
    }
  }

  async emulatorXenstoreData(domid: Domid): Promise<Uint8Array> {
    // tools/libs/light/libxl_dom_save.c: libxl__save_emulator_xenstore_data. Recent QEMUs keep nothing there.
    const root = `/local/domain/0/device-model/${domid}`;
    const strings: string[] = [];
    for (const entry of await listMaybe(this.#xenstore, `${root}/physmap`)) {
      for (const part of ['start_addr', 'size', 'name']) {
        const key = `physmap/${entry}/${part}`;
        strings.push(key, await this.#xenstore.read(`${root}/${key}`));
      }
    }
    return new TextEncoder().encode(strings.map((text) => `${text}\0`).join(''));
  }

  async repointDisks(domid: Domid, images: readonly DiskImage[]): Promise<void> {
    const state = await this.#hypervisor.domainState(domid);
    if (state === undefined) {
      throw new EnvironmentError('DOMAIN_GONE', `domain ${domid} is gone`, { domid });
    }
    const stored = await readStoredDisks(domid, this.#xenstore);
    await this.#xenstore.transaction(async (access) => {
      for (const { vdev, path, format } of images) {
        const disk = stored.find((one) => one.vdev === vdev);
        if (disk === undefined) continue;
        const params = `${toParamsFormat(format)}:${path}`;
        await access.write(`/libxl/${domid}/device/vbd/${disk.devid}/params`, params);
        if (disk.backend !== undefined) await access.write(`${disk.backend.path}/params`, params);
      }
    });
    const stated = images.map((image) => ({ ...image, format: toConfigFormat(image.format) }));
    await editStoredConfig(state, (config) => withImages(config, stated), this.#userdata);
  }

  destroy(domid: Domid, options: { timeoutMs: number; signal?: AbortSignal }): Promise<void> {
    return destroyDomain(this.#hypervisor, this.#xenstore, domid, options);
  }

  async restore(
    memoryPath: string,
    config: LibxlConfig | undefined,
    { signal }: { signal?: AbortSignal },
  ): Promise<Domid> {
    const { start, stored } = await readHeader(memoryPath);
    const { name, uuid } = domainIdentity(stored);
    if ((await this.findDomain(name)) !== undefined) {
      throw new DomainError('DOMAIN_EXISTS', `a domain ${name} is there already`);
    }
    const header = config === undefined ? undefined : encodeXlHeader(makeXlHeader(printLibxlJson(config)));
    try {
      await xlRestore(header === undefined ? memoryPath : { path: memoryPath, start, header }, signal);
    } catch (error) {
      await this.#removeHalfBuilt(name, uuid, error);
      throw error;
    }
    const domid = await this.findDomain(name);
    if (domid === undefined) throw new EnvironmentError('XL_RESTORE', `xl restored no domain ${name}`);
    return domid;
  }

  /**
   * xl removes what it began to build, unless it was ended from outside. Ours has never run; one that somebody else
   * has started under the same name meanwhile stays.
   * @throws DomainError when it cannot be removed
   */
  async #removeHalfBuilt(name: string, uuid: string, error: unknown): Promise<void> {
    const left = await this.findDomain(name);
    const state = left === undefined ? undefined : await this.#hypervisor.domainState(left);
    if (state === undefined || state.uuid !== uuid || !state.paused) return;
    try {
      await this.destroy(state.domid, { timeoutMs: REMOVE_TIMEOUT_MS });
    } catch (problem) {
      throw new DomainError(
        'HALF_BUILT',
        `${describeError(error)}; what was built of domain ${name} is still there: ${describeError(problem)}`,
        { cause: error, domid: state.domid, hint: `xl destroy ${state.domid}` },
      );
    }
  }
}

/** Where libxl's stream begins in a save file, and what configuration stands before it. */
async function readHeader(path: string): Promise<{ start: number; stored: LibxlConfig }> {
  await using source = await FileSource.open(path);
  const stored = parseLibxlConfig(xlConfigText(await readXlHeader(source)));
  return { start: source.offset, stored };
}

async function listMaybe(xenstore: XenstoreClient, path: string): Promise<readonly string[]> {
  try {
    return await xenstore.list(path);
  } catch (error) {
    if (isXenstoreErrno(error, 'ENOENT')) return [];
    throw error;
  }
}

/** What libxl calls one of QEMU's formats in its configuration (libxl_types.idl: libxl_disk_format). */
function toConfigFormat(format: string): string {
  return format === 'vpc' ? 'vhd' : format;
}

/** And in `params` (tools/libs/light/libxl_device.c). */
function toParamsFormat(format: string): string {
  return format === 'raw' ? 'aio' : toConfigFormat(format);
}

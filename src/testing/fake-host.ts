import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type Domid, toDomid } from '../core/brand.ts';
import { DiskError, DomainError, throwIfAborted } from '../core/errors.ts';
import { configDisks, domainIdentity, withImages } from '../snapshot/libxl-config.ts';
import { readMemoryFacts } from '../snapshot/memory-facts.ts';
import type {
  DeviceModel,
  DiskAction,
  DomainDisk,
  DomainState,
  Guest,
  GuestType,
  Host,
  Hypervisor,
  ImageInfo,
  Images,
  LibxlConfig,
  Obstacle,
  Toolstack,
} from '../snapshot/ports.ts';
import { FakeGuest } from './fake-guest.ts';

/** A disk image of the fake: a small real file, so that paths, renames and removals are real. */
export interface FakeImage {
  format: string;
  /** What the guest has written. */
  content: string;
  tags: Record<string, string>;
  backing?: string;
}

/** Makes an image, or writes to it. */
export function writeImage(path: string, image: FakeImage): void {
  writeFileSync(path, JSON.stringify(image));
}

/** What an image is, and what is in it. */
export function readImage(path: string): FakeImage {
  return JSON.parse(readFileSync(path, 'utf8')) as FakeImage;
}

/** What the guest reads from a disk: an overlay that has nothing of its own shows its backing file. */
export function contentOf(path: string): string {
  const image = readImage(path);
  return image.content !== '' || image.backing === undefined ? image.content : contentOf(image.backing);
}

export interface FakeOptions {
  /** Where its images are made, and memory files whose cfgfile names no place: an empty directory of the test's. */
  readonly directory: string;
  readonly type?: GuestType;
  readonly paused?: boolean;
  readonly guest?: FakeGuest;
  readonly disks?: readonly { vdev: string; format?: string; internal?: readonly Obstacle[] }[];
}

/** Of `guest1`. */
export const FAKE_UUID = '3f8d2c1e-1111-4222-8333-444455556666';

/** Methods that answer at once, and of which nothing is told. */
const HERE: readonly string[] = ['guard', 'imageOf'];

/**
 * One host with one domain, `guest1`, all of it simulated. Every port call is in `calls`; `fault` may throw or wait in
 * any of them, before the call takes effect.
 */
export class FakeHost implements Host {
  readonly calls: string[] = [];
  /** Called before each port call takes effect, with its name. */
  fault: (call: string) => void | Promise<void> = () => {};
  /** Called after each port call has taken effect, with the method's name. */
  after: (call: string) => void | Promise<void> = () => {};
  /** The process is gone: whatever it still calls does nothing. */
  dead = false;
  readonly directory: string;
  readonly snapshotDir: string;
  readonly guest: FakeGuest;
  config: LibxlConfig;
  domid: Domid | undefined = toDomid(7);
  type: GuestType;
  pauses: number;
  suspended = false;
  /** What has become of a request to suspend that nobody waits for. */
  request: 'none' | 'made' | 'acknowledged' = 'none';
  machineStopped = false;
  /** Whether QEMU tells Xen's dirty log what it writes. */
  machineLogs = false;
  dying = false;
  shutdown: DomainState['shutdown'];
  /** Where the running domain's disks write: vdev to image. */
  readonly inUse = new Map<string, string>();
  /** Images that other domains use. */
  readonly othersUse: string[] = [];
  /** Pids of what works on an image, by its path. */
  readonly workers = new Map<string, number>();
  readonly obstacles = new Map<string, readonly Obstacle[]>();
  /** The process of another program that saves the domain. */
  saver: number | undefined;
  disposed = 0;
  /** Why no memory can be copied while the guest runs. */
  liveObstacle: Obstacle | undefined;
  /** Whether a create or revert is under way. */
  locked = false;
  /** Who watches over this process, each with the journal that it was told. */
  readonly guarded = new Set<{ readonly journal?: string }>();
  readonly hypervisor: Hypervisor;
  readonly toolstack: Toolstack;
  readonly images: Images;

  constructor(options: FakeOptions) {
    this.directory = options.directory;
    this.snapshotDir = options.directory;
    this.guest = options.guest ?? new FakeGuest();
    this.type = options.type ?? 'pvh';
    if (this.type === 'pv') this.guest.streamType = 'pv';
    this.pauses = options.paused === true ? 1 : 0;
    const disks = (options.disks ?? [{ vdev: 'xvda' }]).map((disk) => {
      const path = join(options.directory, `${disk.vdev}.img`);
      const format = disk.format ?? 'qcow2';
      writeImage(path, { format, content: 'at start', tags: {} });
      this.inUse.set(disk.vdev, path);
      this.obstacles.set(disk.vdev, disk.internal ?? []);
      return { vdev: disk.vdev, pdev_path: path, format, readwrite: 1 };
    });
    this.config = {
      c_info: { type: this.type, name: 'guest1', uuid: FAKE_UUID },
      b_info: { max_memkb: 131072 },
      disks,
    };
    this.hypervisor = this.#told(this.#makeHypervisor());
    this.toolstack = this.#told(this.#makeToolstack());
    this.images = this.#told(this.#makeImages());
  }

  /** Whether the guest executes instructions. */
  get runs(): boolean {
    return this.domid !== undefined && this.pauses === 0 && !this.suspended && !this.machineStopped;
  }

  /** The running guest writes to all its disks. */
  write(content: string): void {
    for (const path of this.inUse.values()) writeImage(path, { ...readImage(path), content });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  async #call(name: string): Promise<void> {
    if (this.dead) throw new Error('the process is gone');
    this.calls.push(name);
    await this.fault(name);
    if (this.dead) throw new Error('the process is gone');
  }

  /** The same port, telling `after` of each call. */
  #told<T extends object>(port: T): T {
    return new Proxy(port, {
      get: (target, name, receiver) => {
        const value: unknown = Reflect.get(target, name, receiver);
        if (typeof value !== 'function' || typeof name !== 'string' || HERE.includes(name)) return value;
        return async (...args: unknown[]): Promise<unknown> => {
          const result: unknown = await Reflect.apply(value, target, args);
          if (!this.dead) await this.after(name);
          return result;
        };
      },
    });
  }

  #makeHypervisor(): Hypervisor {
    return {
      version: async () => {
        await this.#call('version');
        return { major: 4, minor: 20, extra: '.0' };
      },
      liveObstacle: async () => {
        await this.#call('liveObstacle');
        return this.liveObstacle;
      },
      domainState: async (domid) => {
        await this.#call('domainState');
        if (domid !== this.domid) return undefined;
        return {
          domid,
          ...domainIdentity(this.config),
          type: this.type,
          paused: this.pauses > 0,
          dying: this.dying,
          shutdown: this.suspended ? 'suspend' : this.shutdown,
          memoryBytes: this.guest.memoryBytes,
        };
      },
      vitals: async (domid) => {
        await this.#call('vitals');
        if (domid !== this.domid) return undefined;
        const { uuid } = domainIdentity(this.config);
        const shutdown = this.suspended ? 'suspend' : this.shutdown;
        return { domid, uuid, paused: this.pauses > 0, dying: this.dying, shutdown };
      },
      pause: async () => {
        await this.#call('pause');
        this.pauses++;
      },
      unpause: async () => {
        await this.#call('unpause');
        this.pauses--;
      },
      suspend: async (_domid, { signal }) => {
        await this.#call('suspend');
        throwIfAborted(signal);
        if (this.pauses > 0) throw new Error('a paused domain cannot suspend');
        this.suspended = true;
      },
      withdrawSuspend: async () => {
        await this.#call('withdrawSuspend');
        if (this.request === 'acknowledged') this.suspended = true;
        this.request = 'none';
      },
      resume: async () => {
        await this.#call('resume');
        this.suspended = false;
      },
      openGuest: async () => {
        await this.#call('openGuest');
        return this.#told(this.#watched(this.guest));
      },
    };
  }

  #mayCopy(): void {
    if (!this.suspended && !this.guest.logging) throw new Error('memory copied while the guest runs');
  }

  /** The guest, with its calls in the list too. */
  #watched(guest: Guest): Guest {
    return {
      streamType: guest.streamType,
      p2mSize: guest.p2mSize,
      maxBatch: guest.maxBatch,
      pageTypes: async (pfns) => {
        await this.#call('pageTypes');
        return guest.pageTypes(pfns);
      },
      pageTypesFrom: async (...args) => {
        await this.#call('pageTypes');
        return guest.pageTypesFrom(...args);
      },
      packPages: async (...args) => {
        await this.#call('packPages');
        this.#mayCopy();
        return guest.packPages(...args);
      },
      readPages: async (...args) => {
        await this.#call('readPages');
        this.#mayCopy();
        return guest.readPages(...args);
      },
      startDirtyLog: async () => {
        await this.#call('startDirtyLog');
        await guest.startDirtyLog();
      },
      takeDirty: async (pages, options) => {
        await this.#call('takeDirty');
        if (options.final !== this.suspended) throw new Error('final is for a suspended guest');
        await guest.takeDirty(pages, options);
      },
      stopDirtyLog: async () => {
        await this.#call('stopDirtyLog');
        await guest.stopDirtyLog();
      },
      settle: async () => {
        await this.#call('settle');
        if (!this.suspended) throw new Error('settled while it runs');
        return guest.settle();
      },
      staticRecords: async () => {
        await this.#call('staticRecords');
        return guest.staticRecords();
      },
      startRecords: async () => {
        await this.#call('startRecords');
        return guest.startRecords();
      },
      stateRecords: async () => {
        await this.#call('stateRecords');
        if (!this.suspended) throw new Error('state of a guest that runs');
        return guest.stateRecords();
      },
      [Symbol.asyncDispose]: () => {
        this.disposed++;
        return Promise.resolve();
      },
    };
  }

  #makeToolstack(): Toolstack {
    return {
      findDomain: async (name) => {
        await this.#call('findDomain');
        const { name: own, uuid } = domainIdentity(this.config);
        const known = [own, uuid, String(this.domid)];
        return known.includes(name) ? this.domid : undefined;
      },
      findByName: async (name) => {
        await this.#call('findByName');
        return name === domainIdentity(this.config).name ? this.domid : undefined;
      },
      findByUuid: async (uuid) => {
        await this.#call('findByUuid');
        return uuid === domainIdentity(this.config).uuid ? this.domid : undefined;
      },
      lock: async () => {
        await this.#call('lock');
        if (this.locked) throw new DomainError('DOMAIN_BUSY', 'another holds the lock');
        this.locked = true;
        return {
          [Symbol.asyncDispose]: () => {
            this.locked = false;
            return Promise.resolve();
          },
        };
      },
      guard: () => {
        const watched: { journal?: string } = {};
        this.guarded.add(watched);
        return {
          watch: (path) => {
            watched.journal = path;
          },
          dismiss: () => this.guarded.delete(watched),
        };
      },
      saver: async () => {
        await this.#call('saver');
        return this.saver;
      },
      imagesInUse: async () => {
        await this.#call('imagesInUse');
        const own = [...this.inUse.values()].map((path) => ({
          path,
          domid: this.domid,
          holder: 'domain guest1',
        }));
        const others = this.othersUse.map((path) => ({ path, domid: 99, holder: 'domain other (domid 99)' }));
        return [...own, ...others].map((use) => ({ ...use, format: 'qcow2', writable: true }));
      },
      domainConfig: async () => {
        await this.#call('domainConfig');
        return this.config;
      },
      disks: async () => {
        await this.#call('disks');
        return configDisks(this.config).map((disk, at): DomainDisk => {
          const path = this.inUse.get(disk.vdev);
          return {
            vdev: disk.vdev,
            devid: 51712 + 16 * at,
            writable: disk.writable,
            cdrom: disk.cdrom,
            path,
            format: disk.format,
            internal: this.obstacles.get(disk.vdev) ?? [],
            external: [],
          };
        });
      },
      openDeviceModel: async () => {
        await this.#call('openDeviceModel');
        return this.#told(this.#deviceModel());
      },
      emulatorXenstoreData: async () => {
        await this.#call('emulatorXenstoreData');
        return new Uint8Array(0);
      },
      repointDisks: async (_domid, images) => {
        await this.#call('repointDisks');
        this.config = withImages(this.config, images);
      },
      destroy: async () => {
        await this.#call('destroy');
        this.domid = undefined;
        this.inUse.clear();
        this.suspended = false;
        this.pauses = 0;
      },
      restore: async (memoryPath, config) => {
        await this.#call('restore');
        if (!existsSync(memoryPath)) throw new Error(`no ${memoryPath}`);
        this.config = config ?? (await readMemoryFacts(memoryPath)).config;
        for (const disk of configDisks(this.config)) if (disk.path) this.inUse.set(disk.vdev, disk.path);
        this.domid = toDomid(8);
        this.pauses = 1;
        return this.domid;
      },
    };
  }

  #deviceModel(): DeviceModel {
    const imageOf = (vdev: string): string => this.inUse.get(vdev) ?? '';
    const take = (action: DiskAction): void => {
      const path = imageOf(action.vdev);
      const image = readImage(path);
      if (action.kind === 'internal') {
        writeImage(path, { ...image, tags: { ...image.tags, [action.tag]: image.content } });
      } else {
        writeImage(action.path, { format: 'qcow2', content: '', tags: {}, backing: path });
        this.inUse.set(action.vdev, action.path);
      }
    };
    const undo = (action: DiskAction): boolean => {
      if (action.kind === 'internal') {
        const path = imageOf(action.vdev);
        const image = readImage(path);
        if (!(action.tag in image.tags)) return false;
        delete image.tags[action.tag];
        writeImage(path, image);
      } else {
        if (imageOf(action.vdev) !== action.path) return false;
        const overlay = readImage(action.path);
        const base = overlay.backing ?? '';
        if (overlay.content !== '') writeImage(base, { ...readImage(base), content: overlay.content });
        this.inUse.set(action.vdev, base);
        rmSync(action.path);
      }
      return true;
    };
    return {
      imageOf: (vdev) => this.inUse.get(vdev),
      stop: async () => {
        await this.#call('stop');
        this.machineStopped = true;
      },
      cont: async () => {
        await this.#call('cont');
        this.machineStopped = false;
      },
      logDirty: async (on) => {
        await this.#call(`logDirty ${on}`);
        this.machineLogs = on;
      },
      saveState: async () => {
        await this.#call('saveState');
        return new TextEncoder().encode('QEVM state');
      },
      snapshotDisks: async (actions) => {
        await this.#call('snapshotDisks');
        if (!this.suspended) throw new DiskError('TEST', 'disks snapshotted while the guest runs');
        for (const action of actions) take(action);
      },
      undoSnapshots: async (actions) => {
        await this.#call('undoSnapshots');
        return actions.filter(undo);
      },
      [Symbol.asyncDispose]: () => {
        this.disposed++;
        return Promise.resolve();
      },
    };
  }

  #makeImages(): Images {
    const must = (path: string, tag: string): string => {
      const content = readImage(path).tags[tag];
      if (content === undefined) throw new DiskError('TEST', `${path} has no ${tag}`);
      return content;
    };
    const free = (): void => {
      if (this.domid !== undefined) throw new DiskError('TEST', 'an image was changed while the domain runs');
    };
    return {
      info: async (path): Promise<ImageInfo | undefined> => {
        await this.#call('info');
        if (!existsSync(path)) return undefined;
        const image = readImage(path);
        return {
          path,
          format: image.format,
          virtualSize: 1 << 20,
          snapshots: Object.keys(image.tags).map((name, at) => ({
            id: String(at + 1),
            name,
            dateSec: 0,
            dateNsec: 0,
            vmClockNsec: '0',
            vmStateSize: 0,
          })),
          tags: Object.keys(image.tags),
          backing: image.backing,
          backingFormat: image.backing === undefined ? undefined : 'qcow2',
          encrypted: false,
          externalData: false,
        };
      },
      applyTag: async (path, tag) => {
        await this.#call('applyTag');
        free();
        writeImage(path, { ...readImage(path), content: must(path, tag) });
      },
      createTag: async (path, tag) => {
        await this.#call('createTag');
        free();
        const image = readImage(path);
        writeImage(path, { ...image, tags: { ...image.tags, [tag]: image.content } });
      },
      deleteTag: async (path, tag) => {
        await this.#call('deleteTag');
        free();
        must(path, tag);
        const image = readImage(path);
        delete image.tags[tag];
        writeImage(path, image);
      },
      commitOverlay: async (path) => {
        await this.#call('commitOverlay');
        free();
        const { content, backing } = readImage(path);
        if (backing === undefined) throw new DiskError('TEST', `${path} has no backing file`);
        if (content !== '') writeImage(backing, { ...readImage(backing), content });
      },
      worker: async (path) => {
        await this.#call('worker');
        return this.workers.get(path);
      },
      createOverlay: async (path, backing) => {
        await this.#call('createOverlay');
        if (existsSync(path)) throw new DiskError('TEST', `${path} exists`);
        writeImage(path, { format: 'qcow2', content: '', tags: {}, backing: backing.path });
      },
    };
  }
}

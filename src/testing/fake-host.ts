/** A simulated host with domains, in which any call can be made to fail. */
import { copyFileSync, existsSync, rmdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { type Domid, toDomid } from '../core/brand.ts';
import { DiskError, DomainError, describeError, OutputError, throwIfAborted } from '../core/errors.ts';
import type { Problem } from '../core/problem.ts';
import type { GuestType } from '../core/xen.ts';
import { configDisks, domainIdentity, type LibxlConfig, withImages } from '../memfile/libxl-config.ts';
import { readMemoryFacts } from '../memfile/verify.ts';
import type {
  CreateFindings,
  DeviceModel,
  DiskAction,
  DomainDisk,
  DomainState,
  Guest,
  Host,
  Hypervisor,
  Images,
  LogMarks,
  RestoreFacts,
  RestoreFindings,
  Toolstack,
} from '../snapshot/ports.ts';
import type { Clones } from '../snapshot/storage/clones.ts';
import type { DiskPlace, DiskStorage } from '../snapshot/storage/port.ts';
import { ReflinkStorage } from '../snapshot/storage/reflink.ts';
import { ThickStorage } from '../snapshot/storage/thick.ts';
import { ThinStorage } from '../snapshot/storage/thin.ts';
import type { MemoryClones } from '../snapshot/track/clones.ts';
import { FakeDomain } from './fake-domain.ts';
import { FakeGuest, isNowhere } from './fake-guest.ts';
import {
  chainOf,
  describeImage,
  isSameFile,
  mergeImage,
  readImage,
  tagImage,
  untagImage,
  writeImage,
} from './fake-image.ts';
import { FakeVolumes } from './fake-volumes.ts';

export { contentOf, type FakeImage, readImage, writeImage } from './fake-image.ts';

export interface FakeOptions {
  /** An empty directory, for images, and for memory files whose cfgfile says no path. */
  readonly directory: string;
  readonly type?: GuestType;
  readonly paused?: boolean;
  readonly guest?: FakeGuest;
  readonly disks?: readonly {
    vdev: string;
    format?: string;
    internal?: readonly Problem[];
    /**
     * `file`: a raw image on a file system with reflinks; `thin` and `linear`: a volume of LVM. Default: a qcow2 image that QEMU
     * serves.
     */
    on?: 'file' | 'thin' | 'linear';
  }[];
}

/** Uuid of `guest1`. */
export const FAKE_UUID = '3f8d2c1e-1111-4222-8333-444455556666';

/** Methods that answer at once and are not recorded. */
const HERE: readonly string[] = ['guard', 'imageOf'];

/** The key that excludes all others. */
const EVERY_KEY = '*';

/**
 * A simulated host with a domain `guest1`, and others that a test adds. Every port call is in `calls`.
 * `fault` may throw or wait in any of them, before the call takes effect.
 *
 * It refuses only what real Xen and QEMU would refuse. Whatever would harm a guest or an image is noted in
 * `harm`, which must be empty in the end.
 */
export class FakeHost implements Host {
  /** Called whenever a host notes something in its `harm`, so that a test run can watch every host. */
  static onHarm: ((host: FakeHost) => void) | undefined;
  readonly calls: string[] = [];
  /** Everything done that corrupts an image, kills a QEMU, or harms a guest in another way. */
  readonly harm: string[] = [];
  /** Called before each port call takes effect, with the method's name. */
  fault: (call: string) => void | Promise<void> = () => {};
  /** Called after each port call has taken effect, with the method's name. */
  after: (call: string) => void | Promise<void> = () => {};
  /** Whether the process is dead: whatever it still calls has no effect. */
  dead = false;
  readonly directory: string;
  readonly snapshotDir: string;
  readonly runDirectory: string;
  /** Whether a domain was resumed without xenstored being informed. */
  unannounced = false;
  readonly guest: FakeGuest;
  /** The domain that most tests use; it shares its state with the host's own fields. */
  readonly own: FakeDomain;
  /** All domains, including those that no longer exist. */
  readonly domains: FakeDomain[] = [];
  /** Images that a domain outside the simulation has open. */
  readonly othersUse: string[] = [];
  /** What dom0's kernel has open by loop devices, the device mapper, mounts: holder to image. */
  readonly kernelUsers = new Map<string, string>();
  /** Pids of the programs that work on an image, by its path. */
  readonly workers = new Map<string, number>();
  readonly obstacles = new Map<string, readonly Problem[]>();
  /** What disks lie on that a storage can snapshot, by vdev. */
  readonly places = new Map<string, DiskPlace>();
  /** Why no image can be cloned. */
  cloneObstacle: string | undefined;
  /** Pid of a restore that outlives its xlsnap. */
  restorer: number | undefined;
  /** Process of another program that saves the domain. */
  saver: number | undefined;
  disposed = 0;
  /** Memory in bytes that a new domain could have. */
  freeMemory = 2 ** 32;
  /** Memory of dom0 in bytes for pages that wait to be written. */
  spareMemory: () => number = () => 2 ** 26;
  /** Bytes that the page cache takes at once. */
  dirtyRoom: () => number = () => 2 ** 40;
  /** Whether pages of a running guest may be read, which is right for estimates but not for a snapshot. */
  peeking = false;
  /** Why the guest's memory cannot be read. */
  memoryObstacle: Problem | undefined;
  /** What the toolstack finds about a create, a restore, and a restored domain's disks. */
  createFindings: CreateFindings = { obstacles: [], unknownDrives: [], qemu: '10.0.13' };
  restoreFindings: (facts: RestoreFacts) => RestoreFindings = () => ({
    obstacles: [],
    memoryRisk: undefined,
    warnings: [],
    qemus: ['10.0.13'],
  });
  unconnectedDisks: readonly { readonly vdev: string; readonly path: string | undefined }[] = [];
  /** Why memory cannot be copied while the guest runs. */
  liveObstacle: Problem | undefined;
  /** Whether the domain has booted. */
  booted = true;
  /** The guardians of this process, each with the journal that it was given. */
  readonly guarded = new Set<{ readonly journal?: string }>();
  readonly hypervisor: Hypervisor;
  readonly toolstack: Toolstack;
  readonly images: Images;
  readonly storages: readonly DiskStorage[];
  /** Copies, where a real file system clones. */
  readonly memoryClones: MemoryClones;
  /** Why no memory file can be cloned. */
  reflinkObstacle: string | undefined;
  /** Whether cloning a memory file fails, although nothing seemed to prevent it. */
  cloneFails = false;
  /** The volumes of the group `vg`. */
  readonly volumes: FakeVolumes;
  readonly #locks = new Set<string>();
  #nextDomid = 8;
  #lives = 0;

  constructor(options: FakeOptions) {
    this.directory = options.directory;
    this.snapshotDir = options.directory;
    this.runDirectory = join(options.directory, 'run');
    this.guest = options.guest ?? new FakeGuest();
    this.volumes = new FakeVolumes(
      join(options.directory, 'vg'),
      (path) => this.#usersOf(path).length > 0,
      (what) => this.#harmed(what),
    );
    this.own = this.#make('guest1', FAKE_UUID, options, toDomid(7));
    if (this.type === 'pv') this.guest.streamType = 'pv';
    this.hypervisor = this.#told(this.#makeHypervisor());
    this.toolstack = this.#told(this.#makeToolstack());
    this.images = this.#told(this.#makeImages());
    this.memoryClones = this.#told({
      obstacle: async () => {
        await this.#call('cloneObstacle');
        return this.reflinkObstacle;
      },
      clone: async (from, to) => {
        await this.#call('cloneMemory');
        if (this.cloneFails) throw new OutputError('CLONE', 'it cannot be cloned');
        if (statSync(to).size > 0) throw new OutputError('CLONE', 'it is not empty');
        copyFileSync(from, to);
      },
    } satisfies MemoryClones);
    const volumes = this.#told(this.volumes.port((call) => this.#call(call)));
    const lvm = { devices: options.directory, releaseMs: 1 };
    this.storages = [
      new ReflinkStorage(this.#told(this.#makeClones())),
      new ThinStorage(volumes, lvm),
      new ThickStorage(volumes, lvm),
    ];
  }

  /** Adds a domain. Its images are created unless it shares them. */
  addDomain(options: {
    readonly name: string;
    readonly uuid?: string;
    readonly type?: GuestType;
    readonly disks?: FakeOptions['disks'];
    /** Images that its disks use instead of images of their own: vdev to path. */
    readonly images?: Readonly<Record<string, string>>;
  }): FakeDomain {
    const uuid = options.uuid ?? this.#newUuid();
    const disks = options.disks ?? Object.keys(options.images ?? {}).map((vdev) => ({ vdev }));
    const domain = this.#make(options.name, uuid, { ...options, disks }, this.#newDomid(), options.images);
    return domain;
  }

  #make(
    name: string,
    uuid: string,
    options: Pick<FakeOptions, 'type' | 'paused' | 'disks'>,
    domid: Domid,
    images: Readonly<Record<string, string>> = {},
  ): FakeDomain {
    const type = options.type ?? 'pvh';
    const disks = (options.disks ?? [{ vdev: 'xvda' }]).map((disk) => {
      const volume =
        disk.on === 'thin' || disk.on === 'linear'
          ? this.volumes.create(`${name}-${disk.vdev}`, disk.on)
          : undefined;
      const path =
        volume?.path ??
        images[disk.vdev] ??
        join(this.directory, `${name === 'guest1' ? '' : `${name}-`}${disk.vdev}.img`);
      const format = disk.format ?? (disk.on === undefined ? 'qcow2' : 'raw');
      if (volume === undefined && images[disk.vdev] === undefined)
        writeImage(path, { format, content: 'at start', tags: {} });
      this.obstacles.set(disk.vdev, disk.internal ?? (disk.on === undefined ? [] : [notQcow2(disk.vdev)]));
      if (disk.on === 'file') this.places.set(disk.vdev, { kind: 'file', path });
      if (volume !== undefined) this.places.set(disk.vdev, { kind: 'device', ...volume });
      return { vdev: disk.vdev, pdev_path: path, format, readwrite: 1 };
    });
    const config = {
      c_info: { type, name, uuid },
      b_info: { max_memkb: 131072 },
      disks,
    };
    const domain = new FakeDomain(domid, config, type);
    domain.pauses = options.paused === true ? 1 : 0;
    for (const disk of disks) domain.open(disk.vdev, disk.pdev_path);
    this.domains.push(domain);
    return domain;
  }

  /** Reboots the guest: xl's monitor rebuilds it, with another domid. Its configuration stays. */
  reboot(domain: FakeDomain = this.own): void {
    domain.end();
    this.#build(domain);
  }

  /**
   * Does what `xl create` does with a configuration without `uuid=` and `mac=`: the domain gets another
   * domid, uuid and MAC.
   */
  recreate(domain: FakeDomain = this.own): void {
    domain.end();
    const info = domain.config['c_info'] as Record<string, unknown>;
    domain.config = { ...domain.config, c_info: { ...info, uuid: this.#newUuid() } };
    this.#build(domain);
  }

  #build(domain: FakeDomain): void {
    for (const { vdev, path } of configDisks(domain.config)) if (path) domain.open(vdev, path);
    domain.domid = this.#newDomid();
  }

  #newDomid(): Domid {
    return toDomid(this.#nextDomid++);
  }

  #newUuid(): string {
    return `00000000-aaaa-4bbb-8ccc-${String(++this.#lives).padStart(12, '0')}`;
  }

  get config(): LibxlConfig {
    return this.own.config;
  }

  set config(config: LibxlConfig) {
    this.own.config = config;
  }

  get type(): GuestType {
    return this.own.type;
  }

  get domid(): Domid | undefined {
    return this.own.domid;
  }

  set domid(domid: Domid | undefined) {
    this.own.domid = domid;
  }

  get pauses(): number {
    return this.own.pauses;
  }

  set pauses(pauses: number) {
    this.own.pauses = pauses;
  }

  get suspended(): boolean {
    return this.own.suspended;
  }

  set suspended(suspended: boolean) {
    this.own.suspended = suspended;
  }

  set request(request: FakeDomain['request']) {
    this.own.request = request;
  }

  get machineStopped(): boolean {
    return this.own.machineStopped;
  }

  set machineStopped(stopped: boolean) {
    this.own.machineStopped = stopped;
  }

  get machineLogs(): boolean {
    return this.own.machineLogs;
  }

  set machineLogs(logs: boolean) {
    this.own.machineLogs = logs;
  }

  set dying(dying: boolean) {
    this.own.dying = dying;
  }

  set shutdown(shutdown: DomainState['shutdown']) {
    this.own.shutdown = shutdown;
  }

  /** The images that the domain's disks write to: vdev to path. */
  get inUse(): Map<string, string> {
    return this.own.inUse;
  }

  /** Whether the guest executes instructions. */
  get runs(): boolean {
    return this.own.runs;
  }

  /** Writes to all disks, as the running guest. */
  write(content: string): void {
    this.own.write(content);
  }

  /** Whether an operation is under way. Setting it makes another process hold every lock, or none. */
  get locked(): boolean {
    return this.#locks.size > 0;
  }

  set locked(locked: boolean) {
    this.#locks.clear();
    if (locked) this.#locks.add(EVERY_KEY);
  }

  /** Returns the living domain with a domid. */
  #domain(domid: number): FakeDomain | undefined {
    return this.domains.find((domain) => domain.domid === domid);
  }

  #must(domid: number): FakeDomain {
    const domain = this.#domain(domid);
    if (domain === undefined) throw new DomainError('TEST', `there is no domain ${domid}`);
    return domain;
  }

  /** Names everyone who has an image open, or one above it. */
  #usersOf(path: string): readonly string[] {
    const has = (top: string): boolean => chainOf(top).some((one) => isSameFile(one, path));
    return [
      ...this.domains
        .filter(({ domid, inUse }) => domid !== undefined && [...inUse.values()].some(has))
        .map(({ name, domid }) => `domain ${name} (domid ${domid})`),
      ...this.othersUse.filter(has).map(() => 'domain other (domid 99)'),
      ...[...this.kernelUsers].filter(([, image]) => isSameFile(image, path)).map(([holder]) => holder),
    ];
  }

  /** Notes that qemu-img changes an image. Under Xen nothing refuses that, whoever has the image open. */
  #touch(what: string, path: string): void {
    const users = this.#usersOf(path);
    if (users.length > 0) this.#harmed(`${what} of ${path}, which ${users.join(' and ')} has open`);
  }

  /**
   * Notes that an image is opened with a format. With a wrong format, data that a guest has written is taken
   * for a header.
   */
  #opened(path: string, format: string): void {
    const own = readImage(path).format;
    if (own !== format) this.#harmed(`${path}, which is ${own}, was opened as ${format}`);
  }

  #harmed(what: string): void {
    this.harm.push(what);
    FakeHost.onHarm?.(this);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return Promise.resolve();
  }

  async #call(name: string): Promise<void> {
    if (this.dead) throw new Error('the process is dead');
    this.calls.push(name);
    await this.fault(name);
    if (this.dead) throw new Error('the process is dead');
  }

  /** Returns the same port, with a call of `after` for each method. */
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
      freeMemory: async () => {
        await this.#call('freeMemory');
        return this.freeMemory;
      },
      memoryObstacle: async () => {
        await this.#call('memoryObstacle');
        return this.memoryObstacle;
      },
      hasBooted: async () => {
        await this.#call('hasBooted');
        return this.booted;
      },
      liveObstacle: async () => {
        await this.#call('liveObstacle');
        return this.liveObstacle;
      },
      domainState: async (domid) => {
        await this.#call('domainState');
        const domain = this.#domain(domid);
        if (domain === undefined) return undefined;
        return {
          domid,
          name: domain.name,
          uuid: domain.uuid,
          type: domain.type,
          paused: domain.pauses > 0,
          dying: domain.dying,
          shutdown: domain.reason,
          memoryBytes: this.guest.memoryBytes,
        };
      },
      vitals: async (domid) => {
        await this.#call('vitals');
        const domain = this.#domain(domid);
        if (domain === undefined) return undefined;
        const { uuid, pauses, dying, reason } = domain;
        return { domid, uuid, paused: pauses > 0, dying, shutdown: reason };
      },
      pause: async (domid) => {
        await this.#call('pause');
        this.#must(domid).pauses++;
      },
      unpause: async (domid) => {
        await this.#call('unpause');
        const domain = this.#must(domid);
        if (domain.pauses === 0) this.#harmed(`${domain.name} was unpaused more often than it was paused`);
        domain.pauses = Math.max(0, domain.pauses - 1);
      },
      suspend: async (domid, { signal }) => {
        await this.#call('suspend');
        throwIfAborted(signal);
        const domain = this.#must(domid);
        if (domain.pauses > 0) throw new Error('a paused domain cannot suspend');
        domain.suspended = true;
      },
      withdrawSuspend: async (domid) => {
        await this.#call('withdrawSuspend');
        const domain = this.#domain(domid);
        if (domain === undefined) return;
        if (domain.request === 'acknowledged') domain.suspended = true;
        domain.request = 'none';
      },
      resume: async (domid) => {
        await this.#call('resume');
        const domain = this.#must(domid);
        if (!domain.suspended) this.#harmed(`${domain.name} was resumed, and was not suspended`);
        domain.suspended = false;
        this.unannounced = true;
      },
      announceResume: async (domid) => {
        await this.#call('announceResume');
        // xenstored knows no domain that is gone.
        this.#must(domid);
        this.unannounced = false;
      },
      stopDirtyLog: async (domid) => {
        await this.#call('stopDirtyLog');
        this.#must(domid);
        await this.guest.stopDirtyLog();
      },
      openGuest: async (domid) => {
        await this.#call('openGuest');
        this.#must(domid);
        return this.#told(this.#watched(this.guest, domid));
      },
    };
  }

  #mayCopy(): void {
    if (!this.suspended && !this.guest.logging && !this.peeking)
      throw new Error('memory copied while the guest runs');
  }

  /** Returns the guest with its calls recorded too. Each fails once the domain no longer exists. */
  #watched(guest: Guest, domid: Domid): Guest {
    const ask = async (call: string): Promise<void> => {
      await this.#call(call);
      this.#must(domid);
    };
    const told = (marks: LogMarks): LogMarks => this.#told(marks);
    return {
      streamType: guest.streamType,
      get p2mSize() {
        return guest.p2mSize;
      },
      maxBatch: guest.maxBatch,
      pageTypes: async (pfns) => {
        await ask('pageTypes');
        return guest.pageTypes(pfns);
      },
      pageTypesFrom: async (...args) => {
        await ask('pageTypes');
        return guest.pageTypesFrom(...args);
      },
      pageCount: async () => {
        await ask('pageCount');
        return (await guest.pageCount?.()) ?? 0;
      },
      packPages: async (...args) => {
        await ask('packPages');
        // What goes nowhere is not a copy.
        if (!isNowhere(args[0])) this.#mayCopy();
        return guest.packPages(...args);
      },
      readPages: async (...args) => {
        await ask('readPages');
        this.#mayCopy();
        return guest.readPages(...args);
      },
      startDirtyLog: async () => {
        await ask('startDirtyLog');
        await guest.startDirtyLog();
      },
      takeDirty: async (pages, options) => {
        await ask('takeDirty');
        if (options.final !== this.suspended) throw new Error('final is for a suspended guest');
        return await guest.takeDirty(pages, options);
      },
      stopDirtyLog: async () => {
        await ask('stopDirtyLog');
        await guest.stopDirtyLog();
      },
      get logMarks(): LogMarks | undefined {
        const { logMarks: marks } = guest;
        if (marks === undefined) return undefined;
        return told({
          set: async () => {
            await ask('setMarks');
            return marks.set();
          },
          peek: async (pages) => {
            await ask('peekDirty');
            await marks.peek(pages);
          },
        });
      },
      settle: async (options) => {
        await ask('settle');
        if (!this.suspended) throw new Error('settled while it runs');
        return guest.settle(options);
      },
      staticRecords: async () => {
        await ask('staticRecords');
        return guest.staticRecords();
      },
      startRecords: async () => {
        await ask('startRecords');
        return guest.startRecords();
      },
      stateRecords: async () => {
        await ask('stateRecords');
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
      findDomain: async (word) => {
        await this.#call('findDomain');
        if (/^\d+$/.test(word)) return Number(word) > 32751 ? undefined : toDomid(Number(word));
        return this.domains.find(
          ({ domid, name, uuid }) => domid !== undefined && [name, uuid].includes(word),
        )?.domid;
      },
      findByName: async (name) => {
        await this.#call('findByName');
        return this.domains.find((domain) => domain.domid !== undefined && domain.name === name)?.domid;
      },
      domainNames: async () => {
        await this.#call('domainNames');
        return this.domains.filter(({ domid }) => domid !== undefined).map(({ name }) => name);
      },
      findByUuid: async (uuid) => {
        await this.#call('findByUuid');
        return this.domains.find((domain) => domain.domid !== undefined && domain.uuid === uuid)?.domid;
      },
      lock: async (keys) => {
        await this.#call('lock');
        const taken = [...new Set(keys)];
        if (this.#locks.has(EVERY_KEY) || taken.some((key) => this.#locks.has(key))) {
          throw new DomainError('DOMAIN_BUSY', 'another holds the lock');
        }
        for (const key of taken) this.#locks.add(key);
        return {
          [Symbol.asyncDispose]: () => {
            for (const key of taken) this.#locks.delete(key);
            // Stays if it holds a record, so that a test notices.
            try {
              rmdirSync(this.runDirectory);
            } catch {}
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
        const some = { writable: true };
        const formatOf = (path: string): string => (existsSync(path) ? readImage(path).format : 'raw');
        return [
          ...this.domains.flatMap(({ domid, name, inUse }) =>
            domid === undefined
              ? []
              : [...inUse.values()].map((path) => ({
                  ...some,
                  path,
                  format: formatOf(path),
                  domid,
                  holder: `domain ${name} (domid ${domid})`,
                })),
          ),
          ...this.othersUse.map((path) => ({
            ...some,
            path,
            format: formatOf(path),
            domid: 99,
            holder: 'domain other (domid 99)',
          })),
          ...[...this.kernelUsers].map(([holder, path]) => ({
            ...some,
            path,
            format: 'raw',
            domid: undefined,
            holder,
            release: `free it (${holder})`,
          })),
        ];
      },
      domainConfig: async (domid) => {
        await this.#call('domainConfig');
        return this.#must(domid).config;
      },
      disks: async (domid) => {
        await this.#call('disks');
        const { config, inUse } = this.#must(domid);
        return configDisks(config).map((disk, at): DomainDisk => {
          const path = inUse.get(disk.vdev);
          return {
            vdev: disk.vdev,
            devid: 51712 + 16 * at,
            writable: disk.writable,
            cdrom: disk.cdrom,
            path,
            format: disk.format,
            internal: this.obstacles.get(disk.vdev) ?? [],
            external: [],
            place: this.places.get(disk.vdev),
          };
        });
      },
      createFindings: async () => {
        await this.#call('createFindings');
        return this.createFindings;
      },
      restoreFindings: async (facts) => {
        await this.#call('restoreFindings');
        return this.restoreFindings(facts);
      },
      unconnectedDisks: async () => {
        await this.#call('unconnectedDisks');
        return this.unconnectedDisks;
      },
      openDeviceModel: async (domid) => {
        await this.#call('openDeviceModel');
        const domain = this.#must(domid);
        domain.requireQemu();
        return this.#told(this.#deviceModel(domain));
      },
      emulatorXenstoreData: async (domid) => {
        await this.#call('emulatorXenstoreData');
        this.#must(domid);
        return new Uint8Array(0);
      },
      repointDisks: async (domid, images) => {
        await this.#call('repointDisks');
        const domain = this.#must(domid);
        domain.config = withImages(domain.config, images);
      },
      destroy: async (domid) => {
        await this.#call('destroy');
        const domain = this.#domain(domid);
        // In xl's words.
        if (domain === undefined)
          throw new DomainError('DESTROY', `xl destroy ${domid} failed: no such domain`);
        domain.end();
      },
      restorer: async () => {
        await this.#call('restorer');
        return this.restorer;
      },
      restore: async (memoryPath, config, { onProgress }) => {
        await this.#call('restore');
        if (!existsSync(memoryPath)) throw new Error(`no ${memoryPath}`);
        const { size } = statSync(memoryPath);
        onProgress?.(size, size);
        const restored = config ?? (await readMemoryFacts(memoryPath)).config;
        const { name } = domainIdentity(restored);
        if (this.domains.some((domain) => domain.domid !== undefined && domain.name === name)) {
          throw new DomainError('DOMAIN_EXISTS', `there is a domain ${name} already`);
        }
        const domain = this.domains.find((candidate) => candidate.name === name) ?? this.own;
        domain.end();
        domain.config = restored;
        this.#build(domain);
        domain.pauses = 1;
        return this.#must(domain.domid ?? -1).domid ?? toDomid(0);
      },
    };
  }

  #deviceModel(domain: FakeDomain): DeviceModel {
    const domid = domain.domid;
    /** Asks the domain's QEMU. It no longer exists once the domain has ended or QEMU has aborted. */
    const ask = async (call: string): Promise<void> => {
      await this.#call(call);
      if (domain.domid !== domid) throw new DomainError('QMP', `the QEMU of domid ${domid} has gone`);
      domain.requireQemu();
    };
    const imageOf = (vdev: string): string => domain.inUse.get(vdev) ?? '';
    const take = (action: DiskAction): void => {
      const path = imageOf(action.vdev);
      if (action.kind === 'internal') tagImage(path, action.tag);
      else {
        const { ino, size } = statSync(action.path);
        if (ino !== action.reserved || size > 0) this.#harmed(`QEMU has overwritten ${action.path}`);
        writeImage(action.path, { format: 'qcow2', content: '', tags: {}, backing: path });
        domain.inUse.set(action.vdev, action.path);
      }
    };
    /** xlsnap closes what an earlier merge has left. Images that a snapshot put on the disk need no such thing. */
    const close = (vdev: string): void => {
      domain.unclosed.delete(vdev);
    };
    const undo = (action: DiskAction): boolean => {
      close(action.vdev);
      if (action.kind === 'internal') return untagImage(imageOf(action.vdev), action.tag);
      if (imageOf(action.vdev) !== action.path) return false;
      domain.inUse.set(action.vdev, mergeImage(action.path) ?? '');
      rmSync(action.path);
      return true;
    };
    return {
      imageOf: (vdev) => domain.inUse.get(vdev),
      stop: async () => {
        await ask('stop');
        domain.machineStopped = true;
      },
      cont: async () => {
        await ask('cont');
        domain.machineStopped = false;
      },
      logDirty: async (on) => {
        await ask(`logDirty ${on}`);
        // QEMU's assertion in memory_global_dirty_log_do_stop.
        if (!on && !domain.machineLogs) {
          domain.qemuDead = true;
          this.#harmed(`the QEMU of ${domain.name} aborted: its dirty log was turned off while it was off`);
          domain.requireQemu();
        }
        domain.machineLogs = on;
      },
      saveState: async () => {
        await ask('saveState');
        return new TextEncoder().encode('QEVM state');
      },
      prepareSnapshot: async (vdev) => {
        await ask('prepareSnapshot');
        close(vdev);
      },
      snapshotDisks: async (actions) => {
        await ask('snapshotDisks');
        if (!domain.suspended) throw new DiskError('TEST', 'disks snapshotted while the guest runs');
        for (const action of actions) {
          if (action.kind === 'internal' && action.tag in readImage(imageOf(action.vdev)).tags) {
            throw new DiskError('TEST', `there is a tag ${action.tag} already`);
          }
        }
        const left = actions.find(({ vdev }) => domain.unclosed.has(vdev));
        if (left !== undefined) throw new DiskError('TEST', `QEMU has another node on disk ${left.vdev}`);
        for (const action of actions) take(action);
      },
      undoSnapshots: async (actions) => {
        await ask('undoSnapshots');
        return actions.filter(undo);
      },
      mergeOverlay: async ({ vdev, overlay, base }, { signal, onProgress, beforeSwitch, onWarning } = {}) => {
        await ask('mergeOverlay');
        close(vdev);
        if (imageOf(vdev) !== overlay) return false;
        const { backing } = readImage(overlay);
        if (backing !== base) throw new DiskError('OTHER_IMAGE', `${overlay} is on ${backing}`);
        domain.jobs.add(vdev);
        try {
          mergeImage(overlay);
          onProgress?.(1, 2);
          throwIfAborted(signal);
          await beforeSwitch?.();
          await ask('switchToBase');
          // With what the guest has written since.
          mergeImage(overlay);
          domain.inUse.set(vdev, base);
          domain.jobs.delete(vdev);
          if (domain.started.get(vdev) === overlay) domain.unclosed.set(vdev, overlay);
          await this.after('switchToBase');
          if (domain.unclosed.has(vdev)) {
            try {
              await ask('closeOverlay');
              close(vdev);
              await this.after('closeOverlay');
            } catch (error) {
              if (this.dead) throw error;
              throwIfAborted(signal);
              onWarning?.(`${overlay} is still open: ${describeError(error)}`);
            }
          }
        } finally {
          // The job of a dead process stays.
          if (!this.dead) domain.jobs.delete(vdev);
        }
        return true;
      },
      [Symbol.asyncDispose]: () => {
        this.disposed++;
        return Promise.resolve();
      },
    };
  }

  #makeImages(): Images {
    const must = (path: string, tag: string): string => {
      this.#opened(path, 'qcow2');
      const content = readImage(path).tags[tag];
      if (content === undefined) throw new DiskError('TEST', `${path} has no ${tag}`);
      return content;
    };
    return {
      info: async (path, format) => {
        await this.#call('info');
        const found = describeImage(path, format);
        if (found !== undefined) this.#opened(path, format);
        return found;
      },
      applyTag: async (path, tag) => {
        await this.#call('applyTag');
        this.#touch(`snapshot -a ${tag}`, path);
        writeImage(path, { ...readImage(path), content: must(path, tag) });
      },
      createTag: async (path, tag) => {
        await this.#call('createTag');
        this.#touch(`snapshot -c ${tag}`, path);
        this.#opened(path, 'qcow2');
        tagImage(path, tag);
      },
      deleteTag: async (path, tag) => {
        await this.#call('deleteTag');
        this.#touch(`snapshot -d ${tag}`, path);
        must(path, tag);
        untagImage(path, tag);
      },
      commitOverlay: async (path) => {
        await this.#call('commitOverlay');
        const { backing } = readImage(path);
        if (backing === undefined) throw new DiskError('TEST', `${path} has no backing file`);
        this.#touch('commit', backing);
        mergeImage(path);
        writeImage(path, { ...readImage(path), content: '' });
      },
      worker: async (path) => {
        await this.#call('worker');
        return this.workers.get(path);
      },
      createOverlay: async (path, backing) => {
        await this.#call('createOverlay');
        if (existsSync(path)) throw new DiskError('TEST', `${path} exists`);
        if (existsSync(backing.path)) this.#opened(backing.path, backing.format);
        const stated = { backing: backing.path, backingFormat: backing.format };
        writeImage(path, { format: 'qcow2', content: '', tags: {}, ...stated });
      },
    };
  }

  #makeClones(): Clones {
    return {
      obstacle: async () => {
        await this.#call('obstacle');
        return this.cloneObstacle;
      },
      flush: async () => {
        await this.#call('flush');
      },
      clone: async (from, to) => {
        await this.#call('clone');
        for (const { path, inode = statSync(path).ino } of [from, to]) {
          if (statSync(path).ino !== inode) throw new DiskError('TEST', `${path} is another file`);
        }
        copyFileSync(from.path, to.path);
      },
      copyAttributes: async () => {
        await this.#call('copyAttributes');
      },
    };
  }
}

function notQcow2(vdev: string): Problem {
  return { code: 'DISK_NOT_QCOW2', message: `disk ${vdev}: only qcow2 supports internal snapshots` };
}

/** A simulated volume group: each volume is a small file, so that a test sees everything that is left of one. */
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { DiskError } from '../core/errors.ts';
import { type Pool, VOLUME_TAG, type Volume, type Volumes } from '../snapshot/storage/volumes.ts';
import { readImage, writeImage } from './fake-image.ts';

/** What a volume's file has beside what the guest has written. */
interface Facts {
  readonly uuid: string;
  readonly tags: readonly string[];
  readonly active: boolean;
  readonly minor: number;
  readonly kind: Volume['kind'];
  readonly size?: number;
  /** Of what it is a snapshot. */
  readonly origin?: string;
  /** How full its store is, in per cent. */
  readonly used?: number;
  /** The store of a thick snapshot was full. */
  readonly invalid?: boolean;
}

const MAJOR = 253;
/** Of each volume that is not a store, in bytes. */
const SIZE = 2 ** 20;
let count = 0;

export class FakeVolumes {
  /** The directory of the volumes, whose name is that of the group. */
  readonly directory: string;
  /** What is wrong with the pool. */
  pool: Pool = { dataPercent: 10, metadataPercent: 10, health: '' };
  /** Bytes that the group has for stores. */
  free = 2 ** 30;
  /** Why volumes cannot be created. */
  obstacle: string | undefined;
  readonly #isOpen: (path: string) => boolean;
  readonly #harmed: (what: string) => void;

  /**
   * @param isOpen tells whether a program has a volume open
   * @param harmed is called for what would harm a guest
   */
  constructor(directory: string, isOpen: (path: string) => boolean, harmed: (what: string) => void) {
    this.directory = directory;
    this.#isOpen = isOpen;
    this.#harmed = harmed;
  }

  /** Creates an active volume. @returns its path and its device */
  create(
    name: string,
    kind: 'thin' | 'linear',
  ): { readonly path: string; readonly major: number; readonly minor: number } {
    mkdirSync(this.directory, { recursive: true });
    const minor = this.#write(name, 'at start', { active: true, tags: [], kind });
    return { path: this.path(name), major: MAJOR, minor };
  }

  path(name: string): string {
    return join(this.directory, name);
  }

  /** The port, each of whose calls is announced to `call` before it takes effect. */
  port(call: (name: string) => Promise<void>): Volumes {
    const told =
      <Args extends readonly unknown[], Result>(name: string, work: (...args: Args) => Result) =>
      async (...args: Args): Promise<Result> => {
        await call(name);
        return work(...args);
      };
    return {
      uuidAt: ({ minor }: { readonly minor: number }) =>
        Promise.resolve(
          this.#all()
            .map((one) => this.#facts(one))
            .find((one) => one.minor === minor)?.uuid,
        ),
      list: told('lvs all', () => {
        const group = basename(this.directory);
        return {
          volumes: this.#all().flatMap((name) => this.#volume(name) ?? []),
          pools: new Map([[`${group}/pool`, this.pool]]),
          free: new Map([[group, this.#unused()]]),
        };
      }),
      byName: told('lvs', (_group: string, name: string) => this.#volume(name)),
      obstacle: told('udevd', () => this.obstacle),
      flush: told('flush volume', () => {}),
      snapshotThin: told(
        'lvcreate',
        (_group: string, origin: string, name: string, { keep }: { keep: boolean }) =>
          this.#snapshot(origin, name, keep),
      ),
      createStore: told('lvcreate store', (_group: string, name: string, size: number) => {
        this.#refuse(name);
        if (size > this.#unused()) throw new DiskError('TEST', `${name} needs ${size} bytes`);
        this.#write(name, 'a store', { active: false, tags: [VOLUME_TAG], kind: 'linear', size });
      }),
      snapshotThick: told('lvconvert', (_group: string, origin: string, store: string) => {
        const { uuid } = this.#facts(origin);
        this.#change(store, { kind: 'snapshot', active: true, origin: uuid }, this.#content(origin));
      }),
      settle: told('udevadm settle', () => {}),
      writeBack: told('write back', (_group: string, snapshot: string, origin: string) => {
        if (this.#isOpen(this.path(origin))) this.#harmed(`${origin} was written to, which is open`);
        this.#change(origin, {}, this.#content(snapshot));
      }),
      rename: told('lvrename', (_group: string, from: string, to: string) => this.#rename(from, to)),
      activate: told('lvchange -ay', (_group: string, name: string) => this.#activate(name, true)),
      deactivate: told('lvchange -an', (_group: string, name: string) => this.#activate(name, false)),
      remove: told('lvremove', (volume: Pick<Volume, 'name' | 'uuid'>) => this.#remove(volume)),
    };
  }

  #all(): readonly string[] {
    return existsSync(this.directory) ? readdirSync(this.directory) : [];
  }

  #facts(name: string): Facts {
    return (JSON.parse(readFileSync(this.path(name), 'utf8')) as { readonly volume: Facts }).volume;
  }

  #unused(): number {
    return this.#all().reduce((free, name) => free - (this.#facts(name).size ?? 0), this.free);
  }

  #write(name: string, content: string, facts: Omit<Facts, 'uuid' | 'minor'>): number {
    const minor = ++count;
    const volume: Facts = { uuid: `uuid-${minor}`, minor, ...facts };
    const image = { format: 'raw', content, tags: {}, volume };
    writeImage(this.path(name), image);
    return minor;
  }

  #volume(name: string): Volume | undefined {
    if (!existsSync(this.path(name))) return undefined;
    const { uuid, tags, active, kind, size, origin, used, invalid = false } = this.#facts(name);
    return {
      group: basename(this.directory),
      name,
      uuid,
      size: size ?? SIZE,
      kind,
      layout: kind === 'thin' ? 'thin,sparse' : 'linear',
      active,
      open: this.#isOpen(this.path(name)),
      merging: false,
      tags,
      originUuid: origin,
      pool: kind === 'thin' ? 'pool' : undefined,
      usedPercent: kind === 'snapshot' ? (used ?? 1) : 0,
      invalid,
    };
  }

  #must(name: string): void {
    if (!existsSync(this.path(name))) throw new DiskError('TEST', `there is no volume ${name}`);
  }

  #snapshot(origin: string, name: string, keep: boolean): void {
    this.#must(origin);
    this.#refuse(name);
    this.#write(name, this.#content(origin), {
      active: false,
      tags: keep ? [VOLUME_TAG] : [],
      kind: 'thin',
      origin: this.#facts(origin).uuid,
    });
  }

  #rename(from: string, to: string): void {
    this.#must(from);
    this.#refuse(to);
    if (this.#isOpen(this.path(from))) this.#harmed(`lvrename of ${from}, which is open`);
    renameSync(this.path(from), this.path(to));
  }

  #activate(name: string, active: boolean): void {
    this.#must(name);
    if (!active && this.#isOpen(this.path(name))) throw new DiskError('TEST', `${name} is open`);
    this.#change(name, { active }, this.#content(name));
  }

  #content(name: string): string {
    this.#must(name);
    return readImage(this.path(name)).content;
  }

  #refuse(name: string): void {
    if (existsSync(this.path(name))) throw new DiskError('TEST', `there is a volume ${name} already`);
  }

  /** Changes what is said of a volume, and its content. */
  #change(name: string, facts: Partial<Facts>, content: string): void {
    this.#must(name);
    const image = JSON.parse(readFileSync(this.path(name), 'utf8')) as { readonly volume: Facts };
    const volume = { ...image.volume, ...facts };
    writeFileSync(this.path(name), JSON.stringify({ ...image, content, volume }));
  }

  #remove({ name, uuid }: Pick<Volume, 'name' | 'uuid'>): void {
    // LVM selects none, and that is not an error.
    if (!existsSync(this.path(name)) || this.#facts(name).uuid !== uuid) return;
    if (this.#isOpen(this.path(name))) throw new DiskError('TEST', `${name} is open`);
    rmSync(this.path(name));
  }
}

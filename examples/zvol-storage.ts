/**
 * A storage of your own: ZFS volumes, by ZFS's commands. It shows the form of a `DiskStorage`, and is UNTESTED: xlsnap's tests have
 * no ZFS. Try it on data that you can lose.
 *
 *     await using host = await openHost({ storages: [new ZvolStorage()] });
 */
import { execFile } from 'node:child_process';
import { readlink } from 'node:fs/promises';
import { promisify } from 'node:util';
import { DiskError, type DiskPlace, type DiskStorage, type RevertSteps, type StorageDisk } from 'xlsnap';

const run = promisify(execFile);
const DEVICES = '/dev/zvol/';

/** Runs zfs; with `-H -p` its output is for programs. */
async function zfs(...args: string[]): Promise<string> {
  try {
    return (await run('zfs', args, { env: { PATH: '/usr/sbin:/sbin:/usr/bin:/bin', LC_ALL: 'C' } })).stdout;
  } catch (cause) {
    throw new DiskError('ZFS', `zfs ${args.join(' ')} failed`, { cause });
  }
}

/** A property of a volume or snapshot; `undefined` if there is none of that name. */
async function property(name: string, key: string): Promise<string | undefined> {
  return await zfs('get', '-Hp', '-o', 'value', key, name).then(
    (text) => text.trim(),
    () => undefined,
  );
}

const volumeOf = ({ image }: StorageDisk): string => image.slice(DEVICES.length);
const snapshotOf = ({ snapshot }: StorageDisk): string => snapshot.slice(DEVICES.length);

export class ZvolStorage implements DiskStorage {
  readonly name = 'zvol';
  readonly noun = 'ZFS snapshot';

  async examine(_vdev: string, place: DiskPlace) {
    return (await this.#volume(place)) === undefined ? undefined : [];
  }

  /** The volume on a device, by the links that udev makes: /dev/zvol/POOL/VOLUME to /dev/zdN. */
  async #volume(place: DiskPlace): Promise<string | undefined> {
    if (place.kind !== 'device') return undefined;
    const device = await readlink(`/sys/dev/block/${place.major}:${place.minor}`).catch(() => '');
    const name = device.split('/').at(-1) ?? '';
    if (!/^zd[0-9]+$/.test(name)) return undefined;
    for (const volume of (await zfs('list', '-Hp', '-o', 'name', '-t', 'volume')).trim().split('\n')) {
      const link = await readlink(`${DEVICES}${volume}`).catch(() => '');
      if (link.split('/').at(-1) === name) return volume;
    }
    return undefined;
  }

  async plan(place: DiskPlace, { vdev, name }: { readonly vdev: string; readonly name: string }) {
    const volume = await this.#volume(place);
    if (volume === undefined) throw new DiskError('ZFS', `${place.path} is not a ZFS volume`);
    // Random digits, so that `undo` never destroys another program's snapshot.
    const mark = Math.random().toString(36).slice(2, 8);
    const snapshot = `${DEVICES}${volume}@${name.replaceAll(/[^A-Za-z0-9.-]+/g, '.')}-${mark}`;
    return {
      disk: { kind: 'storage', vdev, storage: this.name, image: `${DEVICES}${volume}`, snapshot } as const,
      problems: [],
    };
  }

  /** Nothing is slow, and the random digits in the snapshot's name tell it from others. */
  async prepare(): Promise<void> {}

  async flush({ image }: StorageDisk): Promise<void> {
    await run('blockdev', ['--flushbufs', image]);
  }

  /** With what QEMU has written since: ZFS does not know what dom0 has cached of the volume. */
  async take(disk: StorageDisk): Promise<void> {
    await this.flush(disk);
    await zfs('snapshot', snapshotOf(disk));
  }

  async finish(disk: StorageDisk) {
    const identity = (await property(snapshotOf(disk), 'guid')) ?? '';
    return { identity, virtualSize: Number(await property(snapshotOf(disk), 'volsize')) };
  }

  async undo(disk: StorageDisk): Promise<boolean> {
    return await this.remove(disk, undefined);
  }

  async check(disk: StorageDisk, then: { readonly identity: string } | undefined) {
    const found = await this.find(disk, then?.identity);
    const message = `disk ${disk.vdev}: ${snapshotOf(disk)} no longer exists, or is another snapshot`;
    return { problems: found === 'there' ? [] : [{ code: 'NO_SNAPSHOT', message }], risks: [] };
  }

  /** A clone takes the volume's name; once promoted, it owns the snapshot, so that a revert can be repeated. */
  async revert(
    disk: StorageDisk,
    { mark, checkFree }: RevertSteps,
    note: (made: string) => Promise<void>,
  ): Promise<void> {
    const volume = volumeOf(disk);
    await zfs('clone', snapshotOf(disk), `${volume}.fresh-${mark}`);
    await note((await property(`${volume}.fresh-${mark}`, 'guid')) ?? '');
    await checkFree();
    await zfs('promote', `${volume}.fresh-${mark}`);
    await checkFree();
    await zfs('rename', volume, `${volume}.before-${mark}`);
    await checkFree();
    await zfs('rename', `${volume}.fresh-${mark}`, volume);
    await run('udevadm', ['settle']);
  }

  async undoRevert(
    disk: StorageDisk,
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const volume = volumeOf(disk);
    const [before, fresh] = [`${volume}.before-${mark}`, `${volume}.fresh-${mark}`];
    const former = (await property(before, 'guid')) !== undefined;
    const there = await property(volume, 'guid');
    if (former && there !== undefined && there !== made) {
      throw new DiskError('ZFS', `${volume} is not the volume that the revert created`);
    }
    const clone = former && there !== undefined ? volume : fresh;
    const cloned = (await property(clone, 'guid')) !== undefined;
    if (!former && !cloned) return false;
    await checkFree();
    await beforeChange();
    // The snapshot goes back to the former volume, if the clone has it.
    if (cloned && (await property(former ? before : volume, 'origin')) !== '-') {
      await zfs('promote', former ? before : volume);
    }
    if (cloned) await zfs('destroy', clone);
    if (former) await zfs('rename', before, volume);
    return true;
  }

  async former(disk: StorageDisk, mark: string): Promise<string | undefined> {
    const before = `${volumeOf(disk)}.before-${mark}`;
    return (await property(before, 'guid')) === undefined ? undefined : `${DEVICES}${before}`;
  }

  async forget(disk: StorageDisk, mark: string): Promise<boolean> {
    if ((await this.former(disk, mark)) === undefined) return false;
    await zfs('destroy', `${volumeOf(disk)}.before-${mark}`);
    return true;
  }

  async find(disk: StorageDisk, identity: string | undefined) {
    const guid = await property(snapshotOf(disk), 'guid');
    if (guid === undefined) return 'gone';
    return identity === undefined || guid === identity ? 'there' : 'other';
  }

  async remove(disk: StorageDisk, identity: string | undefined): Promise<boolean> {
    if ((await this.find(disk, identity)) !== 'there') return false;
    await zfs('destroy', snapshotOf(disk));
    return true;
  }

  byHand(disk: StorageDisk, what: string, mark: string): string {
    const volume = volumeOf(disk);
    if (what === 'forget') return `zfs destroy ${volume}.before-${mark}`;
    if (what === 'undo-revert')
      return `zfs list -r ${volume}: destroy ${volume}.fresh-${mark}, rename ${volume}.before-${mark} to ${volume}`;
    return `zfs destroy ${snapshotOf(disk)}`;
  }
}

/**
 * Puts a disk back to an external snapshot: a fresh overlay on the base takes the place of the one there is, which is moved aside.
 * Which of the names exist says how far it got, and the inode number of the fresh one whether what is in the place is its work.
 */
import { rename, rm, stat } from 'node:fs/promises';
import { RecoverError } from '../../core/errors.ts';
import { exists, removeIfPresent, statMaybe } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import type { RevertDisk } from '../api.ts';
import { baseOfOverlay } from '../images/chain.ts';
import { waitForWorker } from '../images/worker.ts';
import type { Host } from '../ports.ts';
import type { RevertSteps } from '../storage/port.ts';
import { asidePath, freshPath } from './names.ts';
import type { FormerDisk, Way } from './ways.ts';

export class OverlayWay implements Way {
  readonly disk: Extract<RevertDisk, { kind: 'external' }>;
  readonly image: string;
  readonly #host: Host;

  constructor(host: Host, disk: Extract<RevertDisk, { kind: 'external' }>) {
    this.#host = host;
    this.disk = disk;
    this.image = disk.overlay;
  }

  async revert({ mark, checkFree }: RevertSteps, note: (made: string) => Promise<void>): Promise<void> {
    const { base, baseFormat, overlay, replaced } = this.disk;
    const { aside, fresh } = this.#names(mark);
    await this.#host.images.createOverlay(fresh, { path: base, format: baseFormat });
    await note(String((await stat(fresh)).ino));
    if (replaced !== undefined) {
      await checkFree();
      await rename(overlay, aside);
    }
    await checkFree();
    await rename(fresh, overlay);
  }

  async undoRevert(
    { mark, checkFree }: RevertSteps,
    made: string | undefined,
    beforeChange: () => Promise<void>,
  ): Promise<boolean> {
    const { base, overlay, replaced } = this.disk;
    const { aside, fresh } = this.#names(mark);
    await waitForWorker(this.#host, fresh);
    const wasFresh = await removeIfPresent(fresh);
    const there = await statMaybe(overlay);
    const ours =
      there !== undefined &&
      String(there.ino) === made &&
      (await baseOfOverlay(this.#host.images, overlay)) === base;
    const former = await exists(aside);
    if (former && there !== undefined && !ours) {
      throw new RecoverError('FILE_EXISTS', `${overlay} is not the file that the revert created`);
    }
    // Put back already, or replaced on purpose by what is there now.
    if (!former && (!ours || replaced !== undefined)) return wasFresh;
    await checkFree();
    await beforeChange();
    await checkFree();
    if (former) await rename(aside, overlay);
    else await rm(overlay, { force: true });
    return true;
  }

  async former(mark: string): Promise<FormerDisk | undefined> {
    const { aside } = this.#names(mark);
    if (!(await exists(aside))) return undefined;
    const kept = { kind: 'file' as const, vdev: this.disk.vdev, path: aside };
    return { kept, where: aside, removed: `removed ${aside}`, mayStay: true };
  }

  async forget(mark: string): Promise<boolean> {
    return await removeIfPresent(this.#names(mark).aside);
  }

  byHand(what: 'undo-revert' | 'forget', mark: string): string | undefined {
    const names = this.#names(mark);
    const [overlay, aside, fresh] = [this.disk.overlay, names.aside, names.fresh].map(shellQuote);
    const { replaced } = this.disk;
    switch (what) {
      case 'undo-revert':
        return replaced === undefined
          ? `rm -f ${fresh} ${overlay}`
          : `rm -f ${fresh}; mv ${aside} ${overlay}, if ${aside} exists`;
      case 'forget':
        return replaced === undefined ? undefined : `rm ${aside}`;
    }
  }

  #names(mark: string): { readonly aside: string; readonly fresh: string } {
    const { overlay } = this.disk;
    return { aside: asidePath(overlay, mark), fresh: freshPath(overlay, mark) };
  }
}

/** Waits for a qemu-img that outlives its killed xlsnap: its results must be there before anyone looks at them. */
import { setTimeout as sleep } from 'node:timers/promises';
import { RecoverError } from '../../core/errors.ts';
import type { Host } from '../ports.ts';

/** How long to wait, in milliseconds. */
const WORKER_MS = 30_000;
const POLL_MS = 100;

/** @throws {RecoverError} If it takes too long */
export async function waitForWorker({ images }: Pick<Host, 'images'>, path: string): Promise<void> {
  const deadline = performance.now() + WORKER_MS;
  for (let pid = await images.worker(path); pid !== undefined; pid = await images.worker(path)) {
    if (performance.now() > deadline) {
      throw new RecoverError('IMAGE_BUSY', `qemu-img (pid ${pid}) is still working on ${path}`);
    }
    await sleep(POLL_MS);
  }
}

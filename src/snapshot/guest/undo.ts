/** Undoes what was done to a guest: for the process that did it, and for another one that has its hold record. */
import type { Domid } from '../../core/brand.ts';
import type { XlsnapError } from '../../core/errors.ts';
import type { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import type { DirtyLog } from './dirty-log.ts';
import { wasDestroyed } from './gone.ts';
import type { GuestHold } from './hold.ts';

/**
 * Registers turning log-dirty mode off.
 * @param noted is called when the log is off, or no longer ours to turn off: doing so later could disturb another program
 */
export function planLogUndo(
  phases: Phases,
  host: Host,
  domid: Domid,
  log: DirtyLog,
  noted: () => void,
): void {
  phases.onUndo(
    'turned log-dirty mode off',
    `xl save -c of domain ${domid} turns it off; until then the guest is a little slower`,
    async () => {
      const { ended, warning } = await endLog(host, domid, log);
      noted();
      if (warning !== undefined) phases.reporter.log('warning', warning);
      return ended;
    },
  );
}

/**
 * Turns log-dirty mode off, unless the domain no longer exists, or another program that saves it has taken the log over:
 * it would miss what the guest writes, and turns the log off itself.
 * @returns `ended`: whether it was turned off; `warning`: that the guest has lost its QEMU
 */
export async function endLog(
  host: Host,
  domid: Domid,
  log: DirtyLog,
): Promise<{ readonly ended: boolean; readonly warning?: string }> {
  const isGone = (): Promise<boolean> => wasDestroyed(host, domid).catch(() => false);
  if (await isGone()) return { ended: false };
  if ((await host.toolstack.saver(domid).catch(() => undefined)) !== undefined) return { ended: false };
  let dead: XlsnapError | undefined;
  try {
    dead = await log.stop();
  } catch (error) {
    // Destroyed in between.
    if (await isGone()) return { ended: false };
    throw error;
  }
  if (dead === undefined) return { ended: true };
  return { ended: true, warning: `${dead.message}: ${dead.hint ?? 'the guest cannot be used without it'}` };
}

/**
 * Registers resuming the guest, which comes before all other undos.
 * @returns a function that forgets this undo
 */
export function planHoldUndo(
  phases: Phases,
  state: 'running' | 'paused',
  domid: Domid,
  hold: GuestHold,
): () => void {
  return phases.onUndo(
    state === 'paused' ? 'left the guest paused, as it was' : 'resumed the guest',
    `xl list ${domid} shows its state; xl unpause ${domid}, or xl destroy ${domid} if it stays suspended`,
    () => hold.release(),
    { first: true },
  );
}

/** Registers the removal of the guest's record, which stays if something could not be undone. */
export function planRecordUndo(
  phases: Phases,
  domid: Domid,
  record: { close(): void; remove(): void },
  announce: () => Promise<unknown>,
): void {
  phases.onUndo(
    'reported to xenstored that the guest runs',
    `xlsnap recover; until then xl may not notice that domain ${domid} shuts down`,
    async (failed) => {
      await announce();
      if (failed) record.close();
      else record.remove();
      return false;
    },
  );
}

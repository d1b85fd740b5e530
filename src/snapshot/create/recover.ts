/** Undoes a create whose process was killed, or whose host went down. */
import { rm, stat } from 'node:fs/promises';
import type { CallOptions } from '../../core/call-options.ts';
import { RecoverError } from '../../core/errors.ts';
import { removeIfPresent, removeReserved, statMaybe } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';
import { partialOf } from '../../memfile/names.ts';
import type { RecoverResult } from '../api.ts';
import { guestNow } from '../guest/gone.ts';
import { type HoldState, isHeld } from '../guest/hold.ts';
import { type FoundHold, holdPath } from '../guest/hold-record.ts';
import { recoverGuest, recoverRest } from '../guest/recover.ts';
import { type FoundSteps, isOfThisBoot } from '../journal/file.ts';
import { Phases } from '../phases.ts';
import type { Host } from '../ports.ts';
import { planDirectoryUndo, planJournalUndo } from '../undo.ts';
import type { CreateHead, CreateStep } from './journal.ts';
import { type DiskSteps, type KilledCreate, mayNeedQemu, planLeftDisks } from './left-disks.ts';
import { planPartialUndo, planTextUndo } from './undo.ts';

type FoundCreate = FoundSteps<CreateHead, CreateStep>;

/**
 * Undoes all that its journal says, unless the snapshot is complete. The caller holds the locks that the journal names.
 * @throws {RecoverError} If something could not be undone; the journal stays
 */
export async function recoverCreate(
  host: Host,
  found: FoundCreate,
  options: CallOptions,
): Promise<RecoverResult> {
  const { head } = found;
  const steps = sumSteps(found);
  const phases = new Phases(options);
  const whole = await isWhole(head, steps);
  const domid = await host.toolstack.findByUuid(head.uuid);
  const domain = domid === undefined ? undefined : await host.hypervisor.domainState(domid);
  const same = domain !== undefined && domain.domid === head.domid && isOfThisBoot(head);
  if (same && (steps.logDirty || (steps.hold !== undefined && isHeld(steps.hold)))) {
    const { uuid, domain: name } = head;
    const held: FoundHold = {
      path: holdPath(host, found.path),
      journal: found.path,
      domid: head.domid,
      uuid,
      domain: name,
      type: domain.type,
      hold: steps.hold,
      logDirty: steps.logDirty,
    };
    const done = await recoverGuest(host, held, options);
    const rest = {
      ...found,
      steps: found.steps.filter(({ step }) => step !== 'hold' && step !== 'log-dirty'),
    };
    return await recoverRest(found.path, done, held, async () =>
      // The journal stays where it alone says what is left.
      done.failures.length > 0 ? undefined : await recoverCreate(host, rest, options),
    );
  }
  const needsQemu = domain !== undefined && !whole && mayNeedQemu(head, steps);
  let noQemu: unknown;
  const unlessGone = (error: unknown): undefined => {
    // What needs no QEMU is undone all the same.
    noQemu = error;
  };
  await using deviceModel = needsQemu
    ? await host.toolstack.openDeviceModel(domain.domid, {}).catch(unlessGone)
    : undefined;
  const left: KilledCreate = { host, head, phases, domain, same, deviceModel, noQemu };
  planUndos(left, steps, found.path, whole);
  const { undone, failures } = await phases.undo();
  const now = domain === undefined ? undefined : await host.hypervisor.domainState(domain.domid);
  if (failures.length > 0) throw notRecoveredError(left, undone, failures);
  return {
    journal: found.path,
    kind: 'create',
    outcome: whole ? 'whole' : 'undone',
    name: head.name,
    domain: head.domain,
    guest: guestNow(now),
    undone,
  };
}

/** The journal's steps, summed up. */
interface CreateSteps extends DiskSteps {
  readonly inode: number | undefined;
  readonly logDirty: boolean;
  readonly hold: HoldState | undefined;
  readonly texts: readonly Extract<CreateStep, { step: 'text' }>[];
  /** A stream's reader has received all of it. */
  readonly whole: boolean;
  readonly undoing: boolean;
}

function sumSteps({ steps, lossy }: FoundCreate): CreateSteps {
  const last = <Name extends CreateStep['step']>(
    name: Name,
  ): Extract<CreateStep, { step: Name }> | undefined =>
    steps.findLast((step): step is Extract<CreateStep, { step: Name }> => step.step === name);
  return {
    inode: last('opened')?.inode,
    logDirty: last('log-dirty')?.on === true,
    hold: last('hold')?.hold,
    preparing: last('preparing') !== undefined,
    disks: last('disks') !== undefined,
    prepared: new Map(
      steps.flatMap((step) => (step.step === 'prepared' ? [[step.vdev, step.made] as const] : [])),
    ),
    reserved: new Map(
      steps.flatMap((step) => (step.step === 'reserved' ? [[step.vdev, step.inode] as const] : [])),
    ),
    texts: steps.filter((step) => step.step === 'text'),
    whole: last('whole') !== undefined,
    undoing: last('undoing') !== undefined,
    lossy,
  };
}

/** Tells whether the snapshot is complete: the memory file gets its name last. */
async function isWhole(
  { memoryPath }: CreateHead,
  { inode, whole, undoing, lossy }: CreateSteps,
): Promise<boolean> {
  const partial = await statMaybe(partialOf(memoryPath));
  if (undoing || (partial !== undefined && (inode === undefined || partial.ino === inode))) return false;
  if (whole) return true;
  const found = await stat(memoryPath).catch(() => undefined);
  return found !== undefined && (found.ino === inode || (inode === undefined && lossy));
}

/** Registers the undos, in the order of the steps. */
function planUndos(left: KilledCreate, steps: CreateSteps, path: string, whole: boolean): void {
  const { head, phases } = left;
  const { memoryPath, madeDirectory } = head;
  if (!whole && madeDirectory !== undefined) planDirectoryUndo(phases, madeDirectory, memoryPath);
  planJournalUndo(phases, path, memoryPath, {
    keep: () => Promise.resolve(),
    remove: () => rm(path, { force: true }),
  });
  if (!whole) planPartialUndo(phases, memoryPath, () => discard(head, steps));
  if (whole) return;
  planLeftDisks(left, steps);
  for (const { path: text, sha256, inode } of steps.texts) {
    planTextUndo(phases, text, sha256);
    const partial = partialOf(text);
    phases.onUndo(`removed ${partial}`, `rm ${shellQuote(partial)}`, () =>
      removePartial(text, head, { inode, lossy: steps.lossy }),
    );
  }
}

/** Removes the memory file, under either name; never another file. */
async function discard(head: CreateHead, steps: CreateSteps): Promise<boolean> {
  const { memoryPath } = head;
  const { inode } = steps;
  const partial = await removePartial(memoryPath, head, steps);
  const named = await stat(memoryPath).catch(() => undefined);
  if (inode === undefined || named?.ino !== inode) return partial;
  return (await removeIfPresent(memoryPath)) || partial;
}

/** Removes what a file is written as before it is complete. @param noted its inode number, and whether that note may be lost */
async function removePartial(
  path: string,
  { mark }: CreateHead,
  { inode, lossy }: Pick<CreateSteps, 'inode' | 'lossy'>,
): Promise<boolean> {
  const partial = partialOf(path);
  const reserved = await removeReserved(partial, { mark, inode });
  // Earlier versions noted it only afterwards, or not at all.
  const unknown = inode === undefined && (mark === '' || lossy);
  return (unknown && (await removeIfPresent(partial))) || reserved;
}

function notRecoveredError(
  { head, domain }: KilledCreate,
  undone: readonly string[],
  failures: readonly string[],
): RecoverError {
  const error = new RecoverError(
    'NOT_RECOVERED',
    `could not undo everything that the create of "${head.name}" of domain ${head.domain} left`,
    {
      hint: `undo the rest by hand, or fix the cause and run xlsnap recover ${shellQuote(head.memoryPath)} again`,
      domid: domain?.domid,
    },
  );
  error.undone = undone;
  error.undoFailures = failures;
  return error;
}

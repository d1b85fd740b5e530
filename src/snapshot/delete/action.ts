/** What a delete does, step by step. */
import type { CallOptions } from '../../core/call-options.ts';
import type { DeleteStep } from './journal.ts';

/** One step, with what it has done if it did something. */
export interface DeleteAction {
  /** Past participle, for a report. */
  readonly what: string;
  readonly byHand: string;
  /** @returns whether there was anything to do */
  readonly run: () => Promise<boolean>;
}

/** What a step needs to know about the delete that it is a part of. */
export interface DeleteRun {
  /** Names and uuids that are locked. */
  readonly keys: readonly string[];
  /** What has been noted, of this process or of the one that was killed. */
  readonly steps: readonly DeleteStep[];
  /** Notes a step; it is on disk once this resolves. */
  readonly note: (step: DeleteStep) => Promise<void>;
  readonly options: CallOptions;
}

/** Options that every call takes. */
import type { Reporter } from './reporter.ts';

/** Options of every call. */
export interface CallOptions {
  readonly reporter?: Reporter | undefined;
  /** Ends the work; everything is undone, the promise rejects with InterruptedError. */
  readonly signal?: AbortSignal | undefined;
  /** After an abort: how long a call may take to end by itself before it is given up. Default: 90 000. */
  readonly graceMs?: number | undefined;
  /** How long one undo may make no progress before the others run without it. Default: 150 000. */
  readonly undoTimeoutMs?: number | undefined;
}

/** Reports from the library, which never prints anything itself. */

/** A step's advance. Counts are of `unit`; `total` is absent while it is unknown. */
export interface Progress {
  /** The phase it belongs to: `memory`, `disks`, … */
  readonly phase: string;
  readonly done: number;
  readonly total?: number;
  readonly unit: 'bytes' | 'pages' | 'steps';
  /** Bytes per second, when measured. */
  readonly rate?: number;
  /** Number of the live round, from 0. */
  readonly round?: number;
  readonly dirtyPages?: number;
  /** Where bytes and pages do not say it. */
  readonly remainingSeconds?: number | undefined;
}

export type LogLevel = 'debug' | 'info' | 'warning';

/** Receives what the library has to say. Methods must not throw. */
export interface Reporter {
  /** A phase begins (`start`) or has ended (`end`, with its seconds; `failed`). */
  phase(name: string, event: 'start' | 'end' | 'failed', seconds?: number): void;
  progress(progress: Progress): void;
  log(level: LogLevel, message: string, fields?: Readonly<Record<string, unknown>>): void;
}

/** Says nothing. The default of every library call. */
export const silentReporter: Reporter = {
  phase() {},
  progress() {},
  log() {},
};

/** Everything that the command line uses of its process, so that tests can replace it. */
import { isatty } from 'node:tty';
import type { BenchRequest, BenchResult } from '../bench/types.ts';
import type { SnapshotConfig } from '../config/config.ts';
import type { CallOptions } from '../core/call-options.ts';
import type {
  CreateRequest,
  CreateResult,
  RecoverRequest,
  RecoverResult,
  RevertPlan,
  RevertRequest,
  RevertResult,
  SnapshotPlan,
  TrackOffResult,
} from '../snapshot/api.ts';
import type { DeletePlan, DeleteRequest, DeleteResult } from '../snapshot/delete/types.ts';
import type { ListRequest, SnapshotList } from '../snapshot/list/list.ts';
import type { NamedRequest } from '../snapshot/list/named.ts';
import type { Guardian, Host, ImageHost } from '../snapshot/ports.ts';
import type { DoctorReport } from '../toolstack/doctor/doctor.ts';
import { startGuardian } from '../toolstack/guardian.ts';
import type { HostOptions } from '../toolstack/host.ts';
import { PatientStream } from './patient-stream.ts';

/** The part of a stream that the command line uses. */
export interface TextStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
  /** Width of the terminal in characters. */
  readonly columns?: number | undefined;
  /** Whether its reader lags behind: output that can be left out should be. */
  readonly waiting?: boolean;
  /** While true, that is from a guest's suspend until it runs again, nothing is written that could stop this process. */
  hold?(held: boolean): void;
}

/** The signals that end the work. */
export const ENDING_SIGNALS = { SIGHUP: 1, SIGINT: 2, SIGTERM: 15 } as const;
/** The signals of a terminal that stop a process until it is continued. */
const STOPPING_SIGNALS = ['SIGTSTP', 'SIGTTIN', 'SIGTTOU'] as const;

/**
 * Tells whether SIGHUP concerns this process. Node resets the signals that it was started to ignore, so `nohup` cannot be
 * detected as such; but it leaves no stream on a terminal.
 */
function hasTerminal(): boolean {
  return [0, 1, 2].some((fd) => isatty(fd));
}

export type EndingSignal = keyof typeof ENDING_SIGNALS;

/** The calls of the library that the commands use. */
export interface SnapshotCalls {
  planCreate(host: Host, request: CreateRequest, options?: CallOptions): Promise<SnapshotPlan>;
  createSnapshot(host: Host, request: CreateRequest, options: CallOptions): Promise<CreateResult>;
  planRevert(host: Host, request: RevertRequest, options: CallOptions): Promise<RevertPlan>;
  revertSnapshot(host: Host, request: RevertRequest, options: CallOptions): Promise<RevertResult>;
  planDelete(host: Host, request: DeleteRequest, options: CallOptions): Promise<DeletePlan>;
  deleteSnapshots(host: Host, request: DeleteRequest, options: CallOptions): Promise<DeleteResult>;
  findSnapshotConfig(host: Host, request: NamedRequest): Promise<SnapshotConfig>;
  snapshotNames(host: ImageHost, request: ListRequest): Promise<readonly string[]>;
  listSnapshots(host: ImageHost, request: ListRequest, options: CallOptions): Promise<SnapshotList>;
  stopTracking(host: Host, domain: string, options: CallOptions): Promise<TrackOffResult>;
  recoverSnapshot(host: Host, request: RecoverRequest, options: CallOptions): Promise<RecoverResult>;
  recoverAll(
    host: Host,
    directory: string | undefined,
    options: CallOptions,
  ): Promise<readonly RecoverResult[]>;
}

/** The calls that `xlsnap bench` uses. */
export interface BenchCalls {
  runBench(host: Host, request: BenchRequest, options: CallOptions): Promise<BenchResult>;
  /** Makes the report, as a single HTML file. */
  benchReport(result: BenchResult, command: string, json: string): string;
}

/** The surroundings of the command line; tests bring their own. */
export interface CliContext {
  readonly stdout: TextStream;
  readonly stderr: TextStream;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** Absolute path by which this program was called. */
  readonly program: string;
  /** Milliseconds on a monotonic clock. */
  now(): number;
  /** Calls `listener` for each ending signal; returns a function that stops this. */
  onSignal(listener: (signal: EndingSignal) => void): () => void;
  /** Defers Ctrl-Z and the like; returns a function that ends this, and then stops the process if one came. */
  deferStops(): () => void;
  /** Starts the guardian of a create; undefined if it cannot start, which the create then says. */
  startGuardian(): Guardian | undefined;
  openHost(options?: HostOptions): Promise<Host>;
  /** What `snapshot-list` needs; works without Xen. */
  openImages(signal: AbortSignal): Promise<ImageHost>;
  loadCalls(): Promise<SnapshotCalls>;
  /** @param domain the only one to look at */
  runDoctor(domain: string | undefined, options?: HostOptions): Promise<DoctorReport>;
  loadBench(): Promise<BenchCalls>;
  /** Program and first arguments that run this command line once more. */
  readonly own: readonly string[];
}

/** The library's calls. Each loads its code when it is made: a create should not wait for that of a revert. */
const LAZY_CALLS: SnapshotCalls = {
  planCreate: async (host, request) =>
    (await import('../snapshot/create/create.ts')).planCreate(host, request),
  createSnapshot: async (...args) => (await import('../snapshot/create/create.ts')).createSnapshot(...args),
  planRevert: async (...args) => (await import('../snapshot/revert/revert.ts')).planRevert(...args),
  revertSnapshot: async (...args) => (await import('../snapshot/revert/revert.ts')).revertSnapshot(...args),
  planDelete: async (...args) => (await import('../snapshot/delete/delete.ts')).planDelete(...args),
  deleteSnapshots: async (...args) => (await import('../snapshot/delete/delete.ts')).deleteSnapshots(...args),
  findSnapshotConfig: async (...args) =>
    (await import('../snapshot/list/named.ts')).findSnapshotConfig(...args),
  snapshotNames: async (...args) => (await import('../snapshot/list/list.ts')).snapshotNames(...args),
  listSnapshots: async (...args) => (await import('../snapshot/list/list.ts')).listSnapshots(...args),
  recoverSnapshot: async (...args) => (await import('../snapshot/recover.ts')).recoverSnapshot(...args),
  recoverAll: async (...args) => (await import('../snapshot/recover.ts')).recoverAll(...args),
  stopTracking: async (...args) => (await import('../snapshot/track/off.ts')).stopTracking(...args),
};

/** Makes the context of this process. Heavy modules are loaded when they are used, so that help and usage errors are quick. */
export function processContext(): CliContext {
  return {
    stdout: process.stdout,
    stderr: new PatientStream(2, process.stderr),
    env: process.env,
    program: process.argv[1] ?? 'xlsnap',
    now: () => performance.now(),
    onSignal(listener) {
      const names = Object.keys(ENDING_SIGNALS) as EndingSignal[];
      const handlers = names.map((name) => ({
        name,
        handler: name === 'SIGHUP' && !hasTerminal() ? () => {} : () => listener(name),
      }));
      for (const { name, handler } of handlers) process.on(name, handler);
      return () => {
        for (const { name, handler } of handlers) process.off(name, handler);
      };
    },
    deferStops() {
      let asked = false;
      const note = () => {
        asked = true;
      };
      for (const name of STOPPING_SIGNALS) process.on(name, note);
      return () => {
        for (const name of STOPPING_SIGNALS) process.off(name, note);
        if (asked) process.kill(process.pid, 'SIGTSTP');
      };
    },
    startGuardian() {
      try {
        return startGuardian();
      } catch {
        return undefined;
      }
    },
    async openHost(options) {
      const { openHost } = await import('../toolstack/host.ts');
      return await openHost(options);
    },
    async openImages(signal) {
      const { imageHost } = await import('../toolstack/image-host.ts');
      return imageHost({ signal });
    },
    async loadCalls() {
      return LAZY_CALLS;
    },
    async runDoctor(domain, options = {}) {
      const { runDoctor } = await import('../toolstack/doctor/doctor.ts');
      return await runDoctor(() => this.openHost(options), domain, options);
    },
    async loadBench() {
      const [{ runBench }, { measureCommand }, { benchReport }] = await Promise.all([
        import('../bench/bench.ts'),
        import('../bench/command.ts'),
        import('../bench/report.ts'),
      ]);
      return {
        runBench: (host, request, options) => runBench(host, measureCommand, request, options),
        benchReport,
      };
    },
    own: [process.execPath, ...process.execArgv, process.argv[1] ?? ''],
  };
}

/** Runs save paths against each other in rounds, and sums up their measurements. */

import { mkdtemp, open, rm, stat, statfs, writeFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { printConfig } from '../config/print.ts';
import type { Domid } from '../core/brand.ts';
import type { CallOptions } from '../core/call-options.ts';
import {
  DomainError,
  describeError,
  EnvironmentError,
  InterruptedError,
  PreflightError,
  throwIfAborted,
} from '../core/errors.ts';
import { makeDirectory, syncDirectory, syncFile, unmakeDirectory } from '../core/files.ts';
import { type Reporter, silentReporter } from '../core/reporter.ts';
import { shellQuote } from '../core/shell-quote.ts';
import type { PhaseTiming } from '../memfile/manifest.ts';
import { configPathOf, manifestPathOf } from '../memfile/names.ts';
import { findLiveDomain } from '../snapshot/create/plan.ts';
import { beingSavedProblem } from '../snapshot/create/preflight.ts';
import { domainKeys } from '../snapshot/domain-lock.ts';
import { DEFAULT_SNAPSHOT_DIR } from '../snapshot/naming.ts';
import type { DomainState, Host } from '../snapshot/ports.ts';
import { stopTracking } from '../snapshot/track/off.ts';
import { trackingObstacle } from '../snapshot/track/plan.ts';
import { readTrack } from '../snapshot/track/record.ts';
import { verifyMemoryFile } from '../toolstack/memory-file.ts';
import type { CommandRun, CommandRunner } from './command.ts';
import { GuestWatch, stopOf } from './guest-watch.ts';
import { describeMachine, load } from './machine.ts';
import { MemoryLimit } from './memory-limit.ts';
import { roundOrder } from './order.ts';
import { ownFailure, readOwnResult } from './own-result.ts';
import { type BenchPath, baselineOf, commandOf, type RunFiles } from './paths.ts';
import { pairedRatios, stoppedSeconds } from './ratios.ts';
import { type Summary, summarise } from './statistics.ts';
import { bytesWritten, findStorage, type Storage } from './storage.ts';
import type { BenchFailure, BenchRequest, BenchResult, BenchRun, PathResult, SeenStop } from './types.ts';
import { warmPageCache } from './warm.ts';

/** A path that has failed this often is not tried again. */
const MAX_FAILURES = 2;
/** How long a program is waited for that has the guest suspended, in milliseconds. */
const OTHERS_MS = 60_000;
const POLL_MS = 100;
/** Disk space per byte of guest memory: the page cache's file takes 1.5, a memory file slightly more than 1. */
const SPACE_FACTOR = 1.6;
/** With a second memory file, that of a tracked snapshot's parent. */
const TRACKED_SPACE_FACTOR = 2.7;

/**
 * Runs save paths of a running domain against each other, in rounds. Each run saves the memory alone, to a file that is
 * then removed. Whatever happens, the domain ends in the state that it had, and no file is left. A path that fails is
 * reported in the result, and the others continue.
 *
 * @param runCommand `measureCommand`, or a test's replacement
 * @throws {DomainError} If the domain does not exist, is paused, or ends during the bench.
 * @throws {PreflightError} If the disk lacks the space, or a path is `tracked` and the domain cannot be.
 * @throws {OutputError} If a directory cannot be created.
 * @throws {InterruptedError} If the signal is aborted.
 */
export async function runBench(
  host: Host,
  runCommand: CommandRunner,
  request: BenchRequest,
  options: CallOptions = {},
): Promise<BenchResult> {
  const domain = await findLiveDomain(host, request.domain);
  if (domain.domid === 0) throw new DomainError('DOMAIN_NOT_FOUND', 'dom0 cannot be saved', { domid: 0 });
  if (domain.paused) {
    throw new DomainError('BENCH_PAUSED', `domain ${domain.name} is paused`, {
      domid: domain.domid,
      hint: 'xl save cannot save a paused domain; unpause it first: xl unpause',
    });
  }
  const parent = resolve(request.directory ?? DEFAULT_SNAPSHOT_DIR);
  const tracked = request.paths.some(({ mode }) => mode === 'tracked');
  if (tracked) await checkTracking(host, parent, domain);
  const made = await makeDirectory(parent);
  try {
    await checkRoom(parent, domain, tracked ? TRACKED_SPACE_FACTOR : SPACE_FACTOR);
    const directory = await mkdtemp(join(parent, 'xlsnap-bench-'));
    try {
      return await new Bench(host, runCommand, request, options, domain, directory).run();
    } finally {
      await rm(directory, { recursive: true, force: true });
    }
  } finally {
    if (made !== undefined) await unmakeDirectory(parent, made);
  }
}

async function checkTracking(host: Host, directory: string, { domid, type }: DomainState): Promise<void> {
  const obstacle = await trackingObstacle(host, type, join(directory, 'memory'));
  if (obstacle === undefined) return;
  throw new PreflightError('BENCH_TRACK', `the path tracked cannot be measured: ${obstacle}`, {
    domid,
    hint: 'omit it from --paths, or choose another --dir if the file system is the reason',
  });
}

async function checkRoom(directory: string, domain: DomainState, factor: number): Promise<void> {
  const { bavail, bsize } = await statfs(directory);
  const wanted = domain.memoryBytes * factor;
  if (bavail * bsize >= wanted) return;
  throw new PreflightError(
    'NO_ROOM',
    `the bench needs ${Math.ceil(wanted / 2 ** 20)} MiB of free space in ${directory}`,
    {
      domid: domain.domid,
      hint: 'free space there, or choose another --dir',
    },
  );
}

class Bench {
  readonly #host: Host;
  readonly #runCommand: CommandRunner;
  readonly #request: BenchRequest;
  readonly #options: CallOptions;
  readonly #reporter: Reporter;
  readonly #domain: DomainState;
  readonly #domid: Domid;
  readonly #directory: string;
  readonly #runs: BenchRun[] = [];
  readonly #failures: BenchFailure[] = [];
  readonly #warnings: string[] = [];
  #storage: Storage = { fileSystem: 'unknown', device: undefined };
  /** A run has left the guest tracked. */
  #tracked = false;

  constructor(
    host: Host,
    runCommand: CommandRunner,
    request: BenchRequest,
    options: CallOptions,
    domain: DomainState,
    directory: string,
  ) {
    this.#host = host;
    this.#runCommand = runCommand;
    this.#request = request;
    this.#options = options;
    this.#reporter = options.reporter ?? silentReporter;
    this.#domain = domain;
    this.#domid = domain.domid;
    this.#directory = directory;
  }

  async run(): Promise<BenchResult> {
    const { paths, rounds, version } = this.#request;
    const started = new Date();
    const startMs = performance.now();
    const loadBefore = load();
    this.#storage = await findStorage(this.#directory);
    await this.#endEarlierTracking();
    const total = paths.length * (rounds + 1);
    let done = 0;
    for (let round = 0; round <= rounds; round++) {
      for (const at of roundOrder(paths.length, round)) {
        const path = paths[at];
        if (path === undefined) continue;
        this.#reporter.progress({
          phase: round === 0 ? `warm-up, ${path.name}` : `round ${round}, ${path.name}`,
          done,
          total,
          unit: 'steps',
          remainingSeconds:
            done === 0 ? undefined : ((performance.now() - startMs) / 1000 / done) * (total - done),
        });
        done++;
        await this.#turn(path, round);
      }
    }
    const { name, type, memoryBytes } = this.#domain;
    return {
      domain: name,
      domid: this.#domid,
      type,
      memoryBytes,
      started: started.toISOString(),
      totalSeconds: (performance.now() - startMs) / 1000,
      rounds,
      machine: { ...(await describeMachine(this.#storage)), loadBefore, loadAfter: load() },
      xen: await this.#host.hypervisor.version(),
      node: process.version,
      version,
      paths: paths.map((path) => resultOf(path, paths, this.#runs)),
      runs: this.#runs,
      failures: this.#failures,
      warnings: this.#warnings,
    };
  }

  /** Runs one path in one round, unless it has failed too often. */
  async #turn(path: BenchPath, round: number): Promise<void> {
    if (this.#failures.filter((failure) => failure.path === path.name).length >= MAX_FAILURES) return;
    throwIfAborted(this.#options.signal);
    try {
      const run = await this.#measure(path, round);
      this.#runs.push(run);
      this.#reporter.log('info', `round ${round}, ${path.name}: ${run.wallSeconds.toFixed(2)} s`);
    } catch (error) {
      throwIfAborted(this.#options.signal);
      if (error instanceof InterruptedError) throw error;
      const message = describeError(error);
      this.#failures.push({ path: path.name, round, message });
      this.#reporter.log('warning', `path ${path.name}: ${message}`);
    } finally {
      try {
        await this.#settle();
      } finally {
        await this.#endTracking();
      }
    }
  }

  async #measure(path: BenchPath, round: number): Promise<BenchRun> {
    const files = this.#files('memory');
    const parent = this.#files('parent');
    const { memory } = files;
    const { signal } = this.#options;
    const limits = { signal };
    try {
      if (path.mode === 'tracked') await this.#createParent(path, parent);
      await this.#writeConfig(files);
      await warmPageCache(join(this.#directory, 'warm'), this.#domain.memoryBytes, signal);
      throwIfAborted(signal);
      const writtenBefore = round === 0 ? await this.#written(this.#directory) : undefined;
      await using group =
        path.memoryMiB === undefined ? undefined : await MemoryLimit.make(path.memoryMiB * 2 ** 20);
      await using watch = new GuestWatch(this.#host.hypervisor, this.#domid);
      let run = await this.#runCommand(this.#commandOf(path, files), {
        directory: this.#directory,
        ...limits,
        // xl would leave the guest suspended.
        endsTidily: path.mode !== 'xl-save',
        group: group?.directory,
      });
      if (path.mode === 'xl-save' && path.sync) run = await syncAfter(run, this.#directory, memory);
      const stop = stopOf(await watch.end(), run.startedMs);
      throwIfAborted(signal);
      if (run.status !== 0) throw commandError(path, run);
      const found = figures(path, run, stop);
      const writtenAfter = writtenBefore === undefined ? undefined : await this.#written(memory);
      if (round === 0) await verifyMemoryFile(memory, limits);
      return {
        path: path.name,
        round,
        ...found,
        ...(await sizesOf(memory)),
        ...(writtenBefore === undefined || writtenAfter === undefined
          ? {}
          : { writtenBytes: writtenAfter - writtenBefore }),
      };
    } finally {
      for (const { memory: file, config } of [files, parent]) {
        const beside = [`${file}.partial`, configPathOf(file), manifestPathOf(file)];
        for (const one of [file, ...beside, config]) await rm(one, { force: true });
      }
    }
  }

  #files(name: string): RunFiles {
    return { memory: join(this.#directory, name), config: join(this.#directory, `${name}-cfg`) };
  }

  #commandOf(path: BenchPath, files: RunFiles): readonly string[] {
    const { own, createOptions } = this.#request;
    return commandOf(path, own, this.#domid, files, createOptions);
  }

  /** Without disks, so that no snapshot is left in them. */
  async #writeConfig({ config, memory }: RunFiles): Promise<void> {
    await writeFile(config, printConfig({ name: 'bench', memoryPath: memory, disks: [] }, 'xlsnap bench'));
  }

  /** Takes the snapshot that a tracked one begins with. Each run has its own, since `xl save` and `live` end the tracking. */
  async #createParent(path: BenchPath, files: RunFiles): Promise<void> {
    const { signal } = this.#options;
    await this.#writeConfig(files);
    this.#tracked = true;
    // On the disk: cloning would wait for that.
    const run = await this.#runCommand(this.#commandOf({ ...path, sync: true }, files), {
      directory: this.#directory,
      signal,
      endsTidily: true,
    });
    throwIfAborted(signal);
    if (run.status !== 0) throw commandError(path, run);
    const { tracking, warnings } = readOwnResult(run.stdout);
    if (!tracking) {
      throw new EnvironmentError('BENCH_FULL', warnings.at(-1) ?? 'snapshot-create did not track the guest');
    }
  }

  /** Waits until a file is on the disk, and reads how much has been written to that. */
  async #written(path: string): Promise<number | undefined> {
    const { device } = this.#storage;
    if (device === undefined) return undefined;
    await syncFile(path);
    await syncDirectory(this.#directory);
    return await bytesWritten(device);
  }

  /** Ends the tracking of a guest that was tracked before the bench: what runs here would end it, and copy less until then. */
  async #endEarlierTracking(): Promise<void> {
    if (readTrack(this.#host, this.#domain.uuid) === undefined) return;
    if (this.#request.paths.every(({ mode }) => mode === 'paused')) return;
    this.#tracked = true;
    await this.#endTracking();
    this.#warn('the guest was tracked, and is not any more: its next snapshot copies all memory');
  }

  /** @throws {EnvironmentError} If that fails: other paths would be measured wrongly */
  async #endTracking(): Promise<void> {
    if (!this.#tracked) return;
    try {
      await stopTracking(this.#host, String(this.#domid));
    } catch (cause) {
      // Nothing is tracked in a domain that no longer exists.
      if (cause instanceof DomainError && cause.code === 'DOMAIN_NOT_FOUND') return;
      const { name } = this.#domain;
      throw new EnvironmentError('BENCH_TRACKED', `the tracking of domain ${name} could not be ended`, {
        domid: this.#domid,
        cause,
        hint: `run: xlsnap track off ${shellQuote(name)}`,
      });
    }
    this.#tracked = false;
  }

  #warn(warning: string): void {
    this.#warnings.push(warning);
    this.#reporter.log('warning', warning);
  }

  /**
   * Makes sure that the guest runs, before anything else begins. Only a guest that a failed or killed program has left stopped is
   * resumed: one that another program is saving would go on in the middle of its save.
   * @throws {DomainError} If the domain is not the one it was, or another program does not finish with it
   */
  async #settle(): Promise<void> {
    if ((await this.#stateNow()).shutdown === undefined) return;
    const { toolstack } = this.#host;
    const options = { what: 'bench', timeoutMs: OTHERS_MS };
    await using _lock = await toolstack.lock(domainKeys(this.#domain), options);
    await this.#savesAreOver();
    const state = await this.#stateNow();
    if (state.shutdown === undefined) return;
    if (state.shutdown !== 'suspend') {
      throw new DomainError(
        'DOMAIN_NOT_RUNNING',
        `domain ${this.#domain.name} has shut down (${state.shutdown})`,
        { domid: this.#domid },
      );
    }
    if (state.type === 'hvm') {
      await using deviceModel = await toolstack.openDeviceModel(
        this.#domid,
        await toolstack.domainConfig(this.#domid),
      );
      await deviceModel?.cont();
    }
    await this.#host.hypervisor.resume(this.#domid);
    await this.#host.hypervisor.announceResume(this.#domid);
    this.#warn('the guest had been left suspended, and was resumed');
  }

  /** @throws {DomainError} If the domain no longer exists */
  async #stateNow(): Promise<DomainState> {
    const state = await this.#host.hypervisor.domainState(this.#domid);
    if (state !== undefined && state.uuid === this.#domain.uuid && !state.dying) return state;
    throw new DomainError('DOMAIN_GONE', `domain ${this.#domain.name} no longer exists`, {
      domid: this.#domid,
    });
  }

  /** Waits until no program saves the guest. @throws {DomainError} If one does so for too long */
  async #savesAreOver(): Promise<void> {
    const deadline = performance.now() + OTHERS_MS;
    for (;;) {
      const pid = await this.#host.toolstack.saver(this.#domid);
      if (pid === undefined) return;
      throwIfAborted(this.#options.signal);
      if (performance.now() > deadline) {
        const { code, message, hint } = beingSavedProblem(pid);
        throw new DomainError(code, message, { domid: this.#domid, hint });
      }
      await sleep(POLL_MS);
    }
  }
}

/** Waits until the file is on the disk, as xlsnap does, and adds that time. */
async function syncAfter(run: CommandRun, directory: string, path: string): Promise<CommandRun> {
  if (run.status !== 0) return run;
  const start = performance.now();
  await using file = await open(path);
  await file.datasync();
  await syncDirectory(directory);
  return { ...run, wallSeconds: run.wallSeconds + (performance.now() - start) / 1000 };
}

function commandError(path: BenchPath, { status, stderr }: CommandRun): EnvironmentError {
  const own = path.mode !== 'xl-save';
  const why = own ? ownFailure(stderr) : stderr.trim().split('\n').slice(-4).join('; ');
  return new EnvironmentError(
    'BENCH_COMMAND',
    `${own ? 'snapshot-create' : 'xl save'} exited with status ${status}: ${why}`,
  );
}

type Figures = Omit<BenchRun, 'path' | 'round' | 'fileBytes' | 'allocatedBytes' | 'writtenBytes'>;

function figures(path: BenchPath, run: CommandRun, stop: SeenStop | undefined): Figures {
  const { wallSeconds, userSeconds, systemSeconds, peakBytes } = run;
  const seen = { wallSeconds, userSeconds, systemSeconds, peakBytes, stop };
  if (path.mode === 'xl-save') return { ...seen, phases: seenPhases(wallSeconds, stop) };
  const { full, tracking, warnings, ...reported } = readOwnResult(run.stdout);
  if (path.mode === 'tracked' && full !== undefined) {
    throw new EnvironmentError('BENCH_FULL', `snapshot-create copied all memory: ${full}`);
  }
  return { ...seen, ...reported };
}

/** The phases of a program that reports none itself, as seen from outside. */
function seenPhases(wallSeconds: number, stop: SeenStop | undefined): readonly PhaseTiming[] {
  if (stop === undefined) return [];
  const end = stop.startSeconds + stop.seconds;
  return [
    { name: 'before', startSeconds: 0, seconds: stop.startSeconds },
    { name: 'stopped', startSeconds: stop.startSeconds, seconds: stop.seconds },
    { name: 'after', startSeconds: end, seconds: Math.max(0, wallSeconds - end) },
  ];
}

async function sizesOf(path: string): Promise<{ fileBytes: number; allocatedBytes: number }> {
  const { size, blocks } = await stat(path);
  return { fileBytes: size, allocatedBytes: blocks * 512 };
}

function resultOf(path: BenchPath, paths: readonly BenchPath[], all: readonly BenchRun[]): PathResult {
  const runs = all.filter((run) => run.path === path.name && run.round > 0);
  const baseline = baselineOf(path, paths)?.name;
  const ratios = (value: (run: BenchRun) => number | undefined): readonly number[] =>
    pairedRatios(all, path.name, baseline, value);
  const cpu = (run: BenchRun): number => run.userSeconds + run.systemSeconds;
  const lists = {
    wallSeconds: runs.map((run) => run.wallSeconds),
    callSeconds: runs.flatMap(({ callSeconds }) => callSeconds ?? []),
    cpuSeconds: runs.map(cpu),
    peakBytes: runs.map((run) => run.peakBytes),
    stopSeconds: runs.flatMap(({ stop }) => stop?.seconds ?? []),
    downtimeSeconds: runs.flatMap(({ downtimeSeconds }) => downtimeSeconds ?? []),
    fileBytes: runs.map((run) => run.fileBytes),
    allocatedBytes: runs.map((run) => run.allocatedBytes),
    wallRatio: ratios((run) => run.wallSeconds),
    cpuRatio: ratios(cpu),
    stopRatio: ratios(stoppedSeconds),
    dirtyPagesPerSecond: runs.flatMap((run) => dirtyPagesPerSecond(run) ?? []),
    trackedPages: runs.flatMap(({ trackedPages }) => trackedPages ?? []),
  };
  const summaries = Object.entries(lists).flatMap(([key, values]): [string, Summary][] => {
    const summary = summarise(values);
    return summary === undefined ? [] : [[key, summary]];
  });
  const written = all.find((run) => run.path === path.name && run.round === 0)?.writtenBytes;
  return {
    ...path,
    baseline,
    ...Object.fromEntries(summaries),
    ...(written === undefined ? {} : { writtenBytes: written }),
  };
}

/** Over all rounds in which the guest ran. */
function dirtyPagesPerSecond({ rounds = [] }: BenchRun): number | undefined {
  const running = rounds.slice(0, -1);
  const took = running.reduce((sum, { seconds }) => sum + seconds, 0);
  return took > 0 ? running.reduce((sum, { dirtyAfter }) => sum + dirtyAfter, 0) / took : undefined;
}

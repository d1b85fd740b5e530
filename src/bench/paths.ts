/** The save paths that a bench compares, and the words of `--paths`. */
import { UsageError } from '../core/errors.ts';
import type { Tuning } from '../snapshot/api.ts';
import { parseTuning, tuningWords } from '../snapshot/memory/tuning.ts';

const MODES = ['xl-save', 'paused', 'live', 'tracked'] as const;

/** At least 64 MiB: Node needs as much. */
const MEMORY = /^memory=(?:6[4-9]|[7-9][0-9]|[1-9][0-9]{2,6})$/;

/** One way to save a guest's memory to a file without ending the guest. */
export interface BenchPath {
  /** In the words of `--paths`. */
  readonly name: string;
  /** `xl save -c`, or `xlsnap snapshot-create` without or with `--live`, or with `--live --track` after another such. */
  readonly mode: (typeof MODES)[number];
  /** Waits until the file is on the disk. `xl save` by itself does not. */
  readonly sync: boolean;
  /** How much memory the command may use, its page cache included, in MiB. Default: no limit. */
  readonly memoryMiB?: number | undefined;
  readonly tuning: Tuning;
}

export const DEFAULT_PATHS = 'xl-save,paused,live';
/** What `all` stands for. */
const ALL_PATHS = `${DEFAULT_PATHS},xl-save+sync,paused+sync,live+sync,paused+in-flight=1,paused+batch=510,paused+no-sparse,paused+no-checksums,paused+direct,paused+no-direct`;

/**
 * Parses a list of paths: each is a mode, followed by options with a `+` before each, such as `paused+sync+batch=510`.
 * @throws {UsageError} PATHS or TUNING, if a word is unknown or a path is listed twice.
 */
export function parsePaths(list: string): readonly BenchPath[] {
  const paths = (list === 'all' ? ALL_PATHS : list).split(',').map((word) => parsePath(word.trim()));
  const twice = paths.find(({ name }, at) => paths.findIndex((other) => other.name === name) !== at);
  if (twice !== undefined) throw new UsageError('PATHS', `path ${twice.name} is listed twice`);
  return paths;
}

function parsePath(word: string): BenchPath {
  const [first, ...options] = word.split('+');
  const mode = MODES.find((known) => known === first);
  if (mode === undefined) {
    throw new UsageError('PATHS', `there is no path "${word}"`, {
      hint: 'paths are xl-save, paused, live, tracked or all; options follow a plus sign: paused+sync, live+batch=510',
    });
  }
  const memory = options.filter((option) => MEMORY.test(option)).slice(-1);
  const [memoryMiB] = memory.map((option) => Number(option.slice('memory='.length)));
  const tuning = parseTuning(options.filter((option) => option !== 'sync' && !MEMORY.test(option)));
  if (mode === 'xl-save' && tuningWords(tuning).length > 0) {
    throw new UsageError('PATHS', `path "${word}": xl save takes no options but sync and memory=MIB`);
  }
  if (mode === 'tracked' && (tuning.checksums === false || tuning.batchPages !== undefined)) {
    throw new UsageError('PATHS', `path "${word}": --track cannot be used with no-checksums or batch`);
  }
  const sync = options.includes('sync');
  const name = [mode, ...(sync ? ['sync'] : []), ...memory, ...tuningWords(tuning)].join('+');
  return { name, mode, sync, memoryMiB, tuning };
}

/** Finds the path to compare with: `xl save`, with the same `sync` and `memory=` as far as such a variant is measured. */
export function baselineOf(path: BenchPath, paths: readonly BenchPath[]): BenchPath | undefined {
  const xl = paths.filter(({ mode }) => mode === 'xl-save');
  const alike = xl.filter(({ memoryMiB }) => memoryMiB === path.memoryMiB);
  const candidates = alike.length > 0 ? alike : xl;
  return candidates.find(({ sync }) => sync === path.sync) ?? candidates[0];
}

/** The files of one run. */
export interface RunFiles {
  readonly memory: string;
  readonly config: string;
}

/**
 * Returns the command line of a path.
 * @param own how xlsnap itself is run: program and first arguments
 * @param createOptions for `snapshot-create`
 */
export function commandOf(
  path: BenchPath,
  own: readonly string[],
  domid: number,
  files: RunFiles,
  createOptions: readonly string[] = [],
): readonly string[] {
  if (path.mode === 'xl-save') return ['xl', 'save', '-c', String(domid), files.memory];
  const tuning = tuningWords(path.tuning);
  return [
    ...own,
    'snapshot-create',
    String(domid),
    files.config,
    '--json',
    ...createOptions,
    ...(path.mode === 'live' ? ['--live'] : []),
    ...(path.mode === 'tracked' ? ['--live', '--track'] : []),
    ...(path.sync ? [] : ['--no-sync']),
    ...(tuning.length === 0 ? [] : ['--tuning', tuning.join('+')]),
  ];
}

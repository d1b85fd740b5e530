import { UsageError } from '../core/errors.ts';
import { parseTuning, tuningWords } from '../snapshot/tuning.ts';
import type { Tuning } from '../snapshot/types.ts';

/** One way to save a guest's memory to a file while it stays alive. */
export interface BenchPath {
  /** In the words of `--paths`. */
  readonly name: string;
  /** `xl save -c`, or `xlsnap snapshot-create` without or with `--live`. */
  readonly mode: 'xl-save' | 'paused' | 'live';
  /** Waits until the file is on the disk. `xl save` by itself does not. */
  readonly sync: boolean;
  readonly tuning: Tuning;
}

export const DEFAULT_PATHS = 'xl-save,paused,live';
/** What `all` stands for. */
const ALL_PATHS = `${DEFAULT_PATHS},xl-save+sync,paused+sync,live+sync,paused+in-flight=1,paused+batch=510,paused+no-sparse,paused+no-checksums`;

/**
 * Reads a list of paths: a mode, and behind it options with a `+` before each, such as `paused+sync+batch=510`.
 * @throws UsageError PATHS, TUNING
 */
export function parsePaths(list: string): readonly BenchPath[] {
  const paths = (list === 'all' ? ALL_PATHS : list).split(',').map((word) => parsePath(word.trim()));
  const twice = paths.find(({ name }, at) => paths.findIndex((other) => other.name === name) !== at);
  if (twice !== undefined) throw new UsageError('PATHS', `path ${twice.name} is there twice`);
  return paths;
}

function parsePath(word: string): BenchPath {
  const [mode, ...options] = word.split('+');
  if (mode !== 'xl-save' && mode !== 'paused' && mode !== 'live') {
    throw new UsageError('PATHS', `there is no path "${word}"`, {
      hint: 'paths are xl-save, paused and live, and with options paused+sync, live+batch=510 and so on; or all',
    });
  }
  const tuning = parseTuning(options.filter((option) => option !== 'sync'));
  if (mode === 'xl-save' && tuningWords(tuning).length > 0) {
    throw new UsageError('PATHS', `path "${word}": xl save takes no option but sync`);
  }
  const sync = options.includes('sync');
  const name = [mode, ...(sync ? ['sync'] : []), ...tuningWords(tuning)].join('+');
  return { name, mode, sync, tuning };
}

/** What a path is compared with: `xl save`, waiting for the disk if the path does, and if that is measured. */
export function baselineOf(path: BenchPath, paths: readonly BenchPath[]): BenchPath | undefined {
  const xl = paths.filter(({ mode }) => mode === 'xl-save');
  return xl.find(({ sync }) => sync === path.sync) ?? xl[0];
}

/** Where the files of one run go. */
export interface RunFiles {
  readonly memory: string;
  readonly config: string;
}

/**
 * The command that takes a path.
 * @param own how xlsnap itself is run: program and first arguments
 */
export function commandOf(
  path: BenchPath,
  own: readonly string[],
  domid: number,
  files: RunFiles,
): readonly string[] {
  if (path.mode === 'xl-save') return ['xl', 'save', '-c', String(domid), files.memory];
  const tuning = tuningWords(path.tuning);
  return [
    ...own,
    'snapshot-create',
    String(domid),
    files.config,
    '--json',
    ...(path.mode === 'live' ? ['--live'] : []),
    ...(path.sync ? [] : ['--no-sync']),
    ...(tuning.length === 0 ? [] : ['--tuning', tuning.join('+')]),
  ];
}

/** Shows progress on stderr: a bar, JSON lines or only warnings. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { Progress, Reporter } from '../core/reporter.ts';
import type { CliContext, TextStream } from './context.ts';
import { columnsOf, formatBytes, formatClock, jsonLine, printable, wrapText } from './text.ts';

/** Shortest time between two redraws or two progress lines, milliseconds. */
const INTERVAL_MS = 100;

/** How long a phase must have run before what it has done says how fast it is. */
const MIN_RATE_SECONDS = 0.5;
/** Room for a rate of up to `9999 MiB`, so that the bar does not jump. */
const RATE_WIDTH = 8;

export interface ProgressOptions {
  readonly json: boolean;
  readonly quiet: boolean;
}

/** A reporter of the command line. */
export interface CliReporter extends Reporter {
  /** Removes the bar from the screen. */
  clear(): void;
}

/** Tells whether the cursor may be moved on this stream. */
export function isTerminal(stream: TextStream, env: CliContext['env']): boolean {
  return stream.isTTY === true && env['TERM'] !== 'dumb';
}

/** Tells whether to use colours, see https://no-color.org. */
export function hasColour(stream: TextStream, env: CliContext['env']): boolean {
  return isTerminal(stream, env) && (env['NO_COLOR'] ?? '') === '';
}

/**
 * Reports progress on stderr: JSON lines with `--json`, a bar on a terminal, a line for each longer phase on a terminal that cannot
 * move its cursor, in a pipe only warnings.
 * `--quiet` leaves warnings only.
 */
export function makeReporter(context: CliContext, options: ProgressOptions): CliReporter {
  if (options.json) return jsonReporter(context, options.quiet);
  const bar = isTerminal(context.stderr, context.env) && !options.quiet ? new Bar(context) : undefined;
  const dumb = context.stderr.isTTY === true && bar === undefined && !options.quiet;
  const lines = dumb ? new PhaseLines(context) : undefined;
  const shown = bar ?? lines;
  const yellow = hasColour(context.stderr, context.env);
  return {
    phase: (name, event) => (event === 'start' ? shown?.start(name) : shown?.end(name, event)),
    progress: (progress) => bar?.update(progress),
    log(level, message) {
      if (level !== 'warning') return;
      bar?.clear();
      const text = wrapText(printable(`warning: ${message}`), columnsOf(context.stderr));
      context.stderr.write(`${yellow ? text.replace(/^warning:/, '\x1b[33mwarning:\x1b[0m') : text}\n`);
    },
    clear: () => bar?.clear(),
  };
}

function jsonReporter(context: CliContext, quiet: boolean): CliReporter {
  const write = (type: string, fields: object): void => {
    context.stderr.write(`${jsonLine(type, fields)}\n`);
  };
  let last = Number.NEGATIVE_INFINITY;
  return {
    phase(name, event, seconds) {
      if (!quiet) write('phase', { phase: name, event, seconds });
    },
    progress(progress) {
      const finished = progress.done === progress.total;
      if (quiet || context.stderr.waiting === true) return;
      if (!finished && context.now() - last < INTERVAL_MS) return;
      last = context.now();
      write('progress', progress);
    },
    log(level, message, fields) {
      if (level === 'warning' || (level === 'info' && !quiet)) write('log', { level, message, ...fields });
    },
    clear() {},
  };
}

/** What is done in a phase, for people. Others are shown by their names. */
const LABELS: Readonly<Record<string, string>> = {
  precopy: 'copying memory, guest runs',
  suspend: 'suspending the guest',
  contexts: "reading the guest's state",
  'device-model': 'saving the devices',
  finish: 'checking the file',
  check: 'checking',
  restore: 'restoring memory',
  merge: 'merging the overlay',
};

/** Names phases, and knows whether a create has stopped the guest. */
class PhaseLabels {
  #stopped = false;

  of(phase: string): string {
    const label = LABELS[phase] ?? phase;
    return this.#stopped ? `${label}, GUEST STOPPED` : label;
  }

  end(phase: string, event: 'end' | 'failed'): void {
    if (phase === 'suspend' && event === 'end') this.#stopped = true;
    if (phase === 'resume' || event === 'failed') this.#stopped = false;
  }
}

/** A line for each phase that may take long. */
class PhaseLines {
  readonly #context: CliContext;
  readonly #labels = new PhaseLabels();

  constructor(context: CliContext) {
    this.#context = context;
  }

  start(phase: string): void {
    if (phase in LABELS || phase === 'memory') this.#context.stderr.write(`${this.#labels.of(phase)}\n`);
  }

  end(phase: string, event: 'end' | 'failed'): void {
    this.#labels.end(phase, event);
  }
}

/** One line of the terminal, redrawn. */
class Bar {
  readonly #context: CliContext;
  readonly #labels = new PhaseLabels();
  #drawnAt = Number.NEGATIVE_INFINITY;
  #shown = false;
  #phase = '';
  #phaseStart = 0;

  constructor(context: CliContext) {
    this.#context = context;
  }

  start(phase: string): void {
    this.#phase = phase;
    this.#phaseStart = this.#context.now();
    this.#draw(this.#labels.of(phase));
  }

  /** The end of a phase. */
  end(phase: string, event: 'end' | 'failed'): void {
    this.clear();
    this.#labels.end(phase, event);
  }

  update(progress: Progress): void {
    if (this.#context.stderr.waiting === true) return;
    if (this.#context.now() - this.#drawnAt < INTERVAL_MS) return;
    if (progress.phase !== this.#phase) {
      this.#phase = progress.phase;
      this.#phaseStart = this.#context.now();
    }
    const seconds = (this.#context.now() - this.#phaseStart) / 1000;
    this.#draw(progressLine(progress, seconds, this.#width, this.#labels.of(progress.phase)));
  }

  clear(): void {
    if (this.#shown) this.#context.stderr.write('\r\x1b[K');
    this.#shown = false;
    this.#drawnAt = Number.NEGATIVE_INFINITY;
  }

  #draw(line: string): void {
    this.#drawnAt = this.#context.now();
    this.#shown = true;
    this.#context.stderr.write(`\r${line.slice(0, this.#width)}\x1b[K`);
  }

  get #width(): number {
    return (columnsOf(this.#context.stderr) ?? 80) - 1;
  }
}

/**
 * `memory [####....] 64 of 128 MiB  52 MiB/s  ETA 0:02`, at most `width` characters; the bar takes what room is left, and
 * what does not fit is left out.
 * @param seconds since the phase began, for the rate where none is measured
 */
export function progressLine(
  progress: Progress,
  seconds: number,
  width: number,
  label: string = progress.phase,
): string {
  const { done, total, unit, round, dirtyPages, remainingSeconds } = progress;
  const scale = unit === 'pages' ? PAGE_SIZE : 1;
  const perSecond = progress.rate ?? (seconds >= MIN_RATE_SECONDS ? (done * scale) / seconds : 0);
  const facts: string[] = [];
  if (unit === 'steps') facts.push(`${done}${total === undefined ? '' : ` of ${total}`}`);
  else if (total === undefined) facts.push(formatBytes(done * scale));
  else {
    // As wide as it gets, so that the bar does not jump.
    const all = formatBytes(total * scale);
    facts.push(`${formatBytes(done * scale).padStart(all.length)} of ${all}`);
  }
  const copied = unit !== 'steps' && total !== undefined && perSecond > 0 && done < total;
  const left = remainingSeconds ?? (copied ? ((total - done) * scale) / perSecond : undefined);
  if (left !== undefined) facts.push(`ETA ${formatClock(left)}`);
  if (unit !== 'steps' && perSecond > 0) facts.push(`${formatBytes(perSecond).padStart(RATE_WIDTH)}/s`);
  if (round !== undefined) facts.push(`pass ${round + 1}`);
  if (dirtyPages !== undefined) facts.push(`${dirtyPages} dirty pages`);
  const fits = (): boolean => label.length + 1 + facts.join('  ').length <= width;
  while (facts.length > 1 && !fits()) facts.pop();
  if (!fits() && total !== undefined && total > 0)
    facts.splice(0, 1, `${Math.floor((100 * done) / total)} %`);
  const text = facts.join('  ');
  const room = Math.min(40, width - label.length - text.length - 4);
  if (total === undefined || total <= 0 || room < 5) return `${label} ${text}`.slice(0, Math.max(0, width));
  const filled = Math.min(room, Math.max(0, Math.floor((done / total) * room)));
  return `${label} [${'#'.repeat(filled)}${'.'.repeat(room - filled)}] ${text}`;
}

/** Announces steps, with an estimate of how long they take. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';

/** Where steps are announced. */
export type Say = (line: string) => void;

export interface StepProgress {
  /** Reports the part that is done, 0 to 1. */
  report(part: number): void;
}

/** Announces long steps, and remembers how long each took. */
export class Steps {
  readonly #file: string;
  readonly #out: NodeJS.WritableStream | undefined;
  readonly #tty: boolean;

  /**
   * Loads earlier times.
   * @param out `undefined` to print nothing; times are still kept
   */
  constructor(file: string, out: (NodeJS.WritableStream & { isTTY?: boolean }) | undefined) {
    this.#file = file;
    this.#out = out;
    this.#tty = out?.isTTY === true;
  }

  say(line: string): void {
    this.#out?.write(`lab: ${line}\n`);
  }

  last(name: string): number | undefined {
    return this.#load()[name];
  }

  /**
   * Runs one step.
   * @param name the key under which its time is kept
   */
  async run<T>(name: string, what: string, job: (progress: StepProgress) => Promise<T>): Promise<T> {
    const last = this.last(name);
    const hint = last === undefined ? '' : ` (took ${seconds(last)} last time)`;
    this.say(`${what} …${hint}`);
    const start = performance.now();
    let part: number | undefined;
    let shown = false;
    const tick = setInterval(
      () => {
        const ms = performance.now() - start;
        if (ms < 10_000) return;
        const done = part ?? (last === undefined ? undefined : Math.min(0.99, ms / last));
        const percent = done === undefined ? '' : `, ${Math.floor(done * 100)} %`;
        if (this.#tty) {
          this.#out?.write(`\r\x1b[Klab:   ${seconds(ms)}${percent}`);
          shown = true;
        } else {
          this.say(`  still ${what}: ${seconds(ms)}${percent}`);
        }
      },
      this.#tty ? 1_000 : 20_000,
    );
    tick.unref();
    const clear = (): void => {
      clearInterval(tick);
      if (shown) this.#out?.write('\r\x1b[K');
    };
    try {
      const result = await job({
        report(value) {
          part = value;
        },
      });
      clear();
      const ms = performance.now() - start;
      this.#keep(name, ms);
      this.say(`${what}: done in ${seconds(ms)}`);
      return result;
    } catch (error) {
      clear();
      this.say(`${what}: FAILED after ${seconds(performance.now() - start)}`);
      throw error;
    }
  }

  #load(): Record<string, number> {
    const times: Record<string, number> = {};
    try {
      const json: unknown = JSON.parse(readFileSync(this.#file, 'utf8'));
      if (typeof json === 'object' && json !== null) {
        for (const [key, value] of Object.entries(json)) if (typeof value === 'number') times[key] = value;
      }
    } catch {
      // There are none yet, or the file is damaged: only estimates are lost.
    }
    return times;
  }

  #keep(name: string, ms: number): void {
    const temporary = `${this.#file}.${process.pid}`;
    writeFileSync(temporary, `${JSON.stringify({ ...this.#load(), [name]: Math.round(ms) }, null, 2)}\n`);
    renameSync(temporary, this.#file);
  }
}

function seconds(ms: number): string {
  return ms < 9_950 ? `${(ms / 1000).toFixed(1)} s` : `${Math.round(ms / 1000)} s`;
}

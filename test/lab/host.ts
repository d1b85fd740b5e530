/** The lab's dom0 with xlsnap installed, for the tests on real Xen. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type DiskReport, decodeDisk, diskSpan, findPages, type MemoryCounter } from '../../lab/counter.ts';
import type { GuestType } from '../../lab/guests.ts';
import { installXlsnap } from '../../lab/install.ts';
import { Lab, type LabOptions } from '../../lab/lab.ts';
import { defaultXen } from '../../lab/releases.ts';

/**
 * Time limits: node needs seconds to start under software emulation, and memory is copied at some 15 MiB/s.
 */
const COMMAND_TIMEOUT_MS = 600_000;

const tree = process.env['XLSNAP_LAB_XEN_TREE'];

/** The lab that the tests run in: on a release, or on a Xen of one's own. */
const LAB: LabOptions =
  tree === undefined || tree === ''
    ? { release: process.env['XLSNAP_LAB_XEN'] ?? defaultXen }
    : { xenTree: tree };

const { xen, shadow, hvm } = Lab.open(LAB).release;

/** The release of Xen that the tests run on. */
export const XEN = xen;

/** Whether that Xen can copy PV guests while they run: Debian 13's was built without shadow paging. */
export const PV_LIVE = shadow;

/** The types of guests that start there. */
export const TYPES: readonly GuestType[] = hvm ? ['pv', 'pvh', 'hvm'] : ['pv', 'pvh'];

/** What the command line printed. */
export interface Said {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** The error that `--json` prints. */
export interface JsonError {
  readonly code: string;
  readonly message: string;
  readonly undo_failures?: readonly string[];
  readonly data?: Readonly<Record<string, unknown>>;
}

/** The error of a command with `--json`, which must have failed. */
export function errorOf({ code, stderr }: Said): JsonError {
  const line = errorLine(stderr);
  if (line === undefined) throw new Error(`it did not fail: exit code ${code}\n${stderr}`);
  return JSON.parse(line) as JsonError;
}

function errorLine(stderr: string): string | undefined {
  return stderr.split('\n').find((text) => text.includes('"message_type":"error"'));
}

/** The lab's dom0 with xlsnap installed from its packed tarball, as a user installs it. */
export class Dom0 {
  readonly lab: Lab;
  readonly #scratch: string;

  private constructor(lab: Lab, scratch: string) {
    this.lab = lab;
    this.#scratch = scratch;
  }

  static async open(): Promise<Dom0> {
    const lab = Lab.open(LAB);
    await lab.up();
    const dom0 = new Dom0(lab, mkdtempSync(join(tmpdir(), 'xlsnap-lab-')));
    await dom0.#prepare();
    return dom0;
  }

  async #prepare(): Promise<void> {
    await installXlsnap(this.lab);
    await this.lab.run('rm -rf /var/lib/xen/snapshots');
  }

  /** Does what Lab.steadily says. */
  async steadily(what: string, job: () => Promise<void>): Promise<void> {
    await this.lab.steadily(what, job, () => this.#prepare());
  }

  /** Runs xlsnap with arguments for the shell. */
  async xlsnap(args: string): Promise<Said> {
    return await this.lab.run(`xlsnap ${args}`, { check: false, timeoutMs: COMMAND_TIMEOUT_MS });
  }

  /** Runs xlsnap, which must succeed, and returns its result, parsed. */
  async result(args: string): Promise<Record<string, unknown>> {
    const { code, stdout, stderr } = await this.xlsnap(`${args} --json`);
    if (code !== 0) {
      // The error first, since the summary of all tests has only the beginning of a long message.
      throw new Error(`xlsnap ${args}: exit code ${code}\n${errorLine(stderr) ?? ''}\n${stdout}${stderr}`);
    }
    return JSON.parse(stdout) as Record<string, unknown>;
  }

  /**
   * Runs xlsnap, and something else in dom0 once a phase has begun.
   * @param phase a phase that `--json` reports
   * @param action shell commands; `$pid` is the process of xlsnap
   * @returns the output of both
   */
  async during(args: string, phase: string, action: string): Promise<Said & { readonly action: Said }> {
    const at = '/tmp/during';
    const { stdout } = await this.lab.run(
      `rm -rf ${at}; mkdir ${at}; cd ${at}
      xlsnap ${args} --json >out 2>err & pid=$!
      until grep -q '"phase":"${phase}","event":"start"' err; do kill -0 $pid 2>/dev/null || break; sleep 0.02; done
      ( ${action} ) >action.out 2>action.err; acted=$?
      wait $pid; code=$?
      printf '%s\\0' $code "$(cat out)" "$(cat err)" $acted "$(cat action.out)" "$(cat action.err)"`,
      { timeoutMs: COMMAND_TIMEOUT_MS },
    );
    const [code = '', out = '', err = '', acted = '', actionOut = '', actionErr = ''] = stdout.split('\0');
    if (!err.includes(`"phase":"${phase}","event":"start"`)) {
      throw new Error(`xlsnap ${args} did not come to ${phase}: exit code ${code}\n${out}${err}`);
    }
    return {
      code: Number(code),
      stdout: out,
      stderr: err,
      action: { code: Number(acted), stdout: actionOut, stderr: actionErr },
    };
  }

  /** Returns the domain's configuration, in the one form that JSON.stringify writes: releases of Xen differ. */
  async configuration(name: string): Promise<string> {
    const { stdout } = await this.lab.run(`xl list -l ${name}`);
    return JSON.stringify(JSON.parse(stdout));
  }

  /** Checks a memory file with Xen's own verifier. */
  async verifyByXen(path: string): Promise<void> {
    await this.lab.run(`verify-stream-v2 -f xl -i ${path}`, { timeoutMs: 120_000 });
  }

  /** Returns the counter in a memory file: exactly one page has it. */
  async memoryCounter(path: string): Promise<MemoryCounter> {
    const local = join(this.#scratch, 'memory');
    await this.lab.copyOut(path, local);
    const pages = findPages(readFileSync(local));
    rmSync(local);
    const [page] = pages;
    if (page === undefined || pages.length !== 1)
      throw new Error(`${path} holds ${pages.length} counter pages`);
    return page;
  }

  /** Returns the counter's part of an image that nobody writes to, or of one of its snapshots with `tag`. */
  async diskCounter(path: string, format: 'qcow2' | 'raw', tag?: string): Promise<DiskReport> {
    const head = '/lab/head.raw';
    const from = tag === undefined ? '' : `-l snapshot.name=${tag}`;
    await this.lab.run(
      `rm -f ${head}; qemu-img convert -U -f ${format} ${from} -O raw ${path} ${head} && truncate -s ${diskSpan} ${head}`,
    );
    const local = join(this.#scratch, 'disk');
    await this.lab.copyOut(head, local);
    const report = decodeDisk(readFileSync(local));
    if (report === undefined) throw new Error(`${path} holds no counter`);
    return report;
  }

  async close(): Promise<void> {
    rmSync(this.#scratch, { recursive: true, force: true });
    await this.lab.down();
  }
}

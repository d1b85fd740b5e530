/** Real Xen in a virtual machine: starts it, runs commands and guests in it, and copies files. */
import { createHash } from 'node:crypto';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ConsoleReport, parseConsole, type Tick } from './counter.ts';
import { findEmulator } from './emulator.ts';
import { LabError, messageOf } from './errors.ts';
import {
  consolePath,
  type DomainState,
  diskCommand,
  type GuestFiles,
  type GuestSpec,
  guestConfig,
  guestFiles,
  parseList,
} from './guests.ts';
import { ensureImage, type Image, imageKey, imageName, prune } from './image.ts';
import { withLock } from './lock.ts';
import { countMappings, findRoot, type Mappings } from './nested-pages.ts';
import { ensurePackages } from './packages.ts';
import { labPaths, type Paths } from './paths.ts';
import { isAlive, must, type Outcome, type ProcessId, quote, tail } from './proc.ts';
import {
  type Accel,
  defaultCpus,
  exchangeDevice,
  exchangeSize,
  extraSize,
  freePort,
  kvmMayWork,
  loadState,
  type Machine,
  machineArgs,
  type RunFiles,
  readMemory,
  resume,
  runFiles,
  saveState,
  startQemu,
  stopQemu,
  waitForConsole,
} from './qemu.ts';
import { isObject } from './qmp.ts';
import { defaultXen, findRelease, type Release, treeRelease } from './releases.ts';
import { Ssh } from './ssh.ts';
import { Steps } from './timings.ts';
import { readXenTree } from './xen-tree.ts';

/** A processor of an emulated machine still runs the breakpoint by which the kernel patches itself. */
const STALE_BREAKPOINT = 'Oops: int3';
/** How often a job is done when emulation spoils it: about one life of a PVH or HVM guest in five ends by it on a busy machine. */
const MAX_ATTEMPTS = 10;

export interface LabOptions {
  /** Xen release, such as `4.20`. */
  readonly release?: string;
  /** Directory of an installed Xen, to be booted instead. */
  readonly xenTree?: string;
  /** Memory of the whole machine. */
  readonly memoryMiB?: number;
  readonly dom0MemoryMiB?: number;
  readonly cpus?: number;
  /** Folder for images, state and logs. */
  readonly dir?: string;
  /** Where steps are announced; `null` for nowhere. Default: standard error. */
  readonly out?: NodeJS.WritableStream | null;
  /** Whether to never load or save a booted state. */
  readonly cold?: boolean;
}

/** The running lab, as stored in run/lab.json. */
export interface RunningLab extends ProcessId {
  readonly xen: string;
  readonly image: string;
  readonly accel: Accel;
  readonly port: number;
  readonly key: string;
  readonly memoryMiB: number;
  readonly dom0MemoryMiB: number;
  readonly started: string;
  /** Whether it was booted or started from a saved state. */
  readonly from: 'cold' | 'warm';
  /** False while it starts. If the next `up` finds that, the lab was abandoned, and is ended. */
  readonly ready: boolean;
}

export interface RunOptions {
  /** Ends the command and throws if it takes longer. */
  readonly timeoutMs?: number;
  /** Whether to throw if the exit code is not 0. Default: true. */
  readonly check?: boolean;
  readonly input?: string | Uint8Array;
  readonly signal?: AbortSignal;
}

/** A guest of the running lab. */
export interface LabGuest extends GuestFiles {
  readonly name: string;
  readonly domid: number;
  /** Number of boots that it took. */
  readonly tries: number;
}

/** Real Xen in a virtual machine: see lab/README.md. */
export class Lab {
  readonly #release: Release;
  readonly #options: LabOptions;
  readonly #paths: Paths;
  readonly #files: RunFiles;
  readonly #steps: Steps;

  private constructor(options: LabOptions) {
    this.#release = labRelease(options);
    this.#options = options;
    this.#paths = labPaths(options.dir);
    this.#files = runFiles(this.#paths.run);
    const out = options.out === undefined ? process.stderr : (options.out ?? undefined);
    this.#steps = new Steps(this.#paths.timings, out);
  }

  /** Prepares a lab. `up` starts it, or finds one that is already up. */
  static open(options: LabOptions = {}): Lab {
    return new Lab(options);
  }

  get dir(): string {
    return this.#paths.dir;
  }

  get release(): Release {
    return this.#release;
  }

  /** Path of dom0's console since its start. */
  get consoleFile(): string {
    return this.#files.console;
  }

  /** Returns the running lab, whoever started it. */
  status(): RunningLab | undefined {
    const lab = this.#process();
    return lab?.ready === true ? lab : undefined;
  }

  /** Makes sure that the lab is up. One that is already up is used unchanged. */
  async up(): Promise<RunningLab> {
    return await this.#locked('up', async () => {
      const running = this.status();
      if (running !== undefined) {
        this.#checkSame(running);
        this.#steps.say(
          `Xen ${running.xen} is already up (process ${running.pid}, since ${running.started})`,
        );
        return running;
      }
      const leftBehind = this.#process();
      if (leftBehind !== undefined) {
        this.#steps.say(`ending process ${leftBehind.pid}, a lab that was abandoned while it started`);
        await stopQemu(leftBehind, this.#files);
      }
      await ensurePackages('run', this.#steps);
      const image = await ensureImage(this.#release, this.#paths, this.#steps);
      try {
        return await this.#boot(image);
      } catch (error) {
        throw await this.#withEvidence(error, 'up');
      }
    });
  }

  /** Stops the running lab. Returns whether there was one. */
  async down(): Promise<boolean> {
    return await this.#locked('down', async () => {
      const running = this.#process();
      if (running !== undefined) {
        await this.#ssh(running).disconnect();
        await stopQemu(running, this.#files);
      }
      rmSync(this.#record, { force: true });
      rmSync(this.#files.disk, { force: true });
      rmSync(this.#files.exchange, { force: true });
      rmSync(this.#files.extra, { force: true });
      this.#steps.say(running === undefined ? 'no lab is up' : `stopped (process ${running.pid})`);
      return running !== undefined;
    });
  }

  /** Runs a shell command in dom0, as root in /root. */
  async run(command: string, options: RunOptions = {}): Promise<Outcome> {
    const done = await this.#ssh().run(command, options);
    if (options.check !== false && done.code !== 0) {
      throw new LabError(
        'command',
        `in dom0: ${command}: exit code ${done.code}\n${tail(`${done.stdout}\n${done.stderr}`)}`,
      );
    }
    return done;
  }

  /**
   * Returns the arguments of an `ssh` that runs a command in dom0, for a caller with its own standard
   * streams.
   */
  sshArgs(command: string, tty: boolean): string[] {
    return this.#ssh().args(command, { tty });
  }

  /** Copies a file (to that name) or a folder's contents (into that folder) to dom0, with modes and holes. */
  async copyIn(local: string, dom0Path: string): Promise<void> {
    this.#ssh();
    const folder = statSync(local).isDirectory();
    await this.#exchanging(async () => {
      const [from, names] = folder ? [local, '.'] : [dirname(resolve(local)), basename(local)];
      await must('command', 'tar', [
        ...['-C', from, '--owner=0', '--group=0', '--sparse', '-cf', this.#files.exchange],
        ...['--', names],
      ]);
      const blocks = Math.ceil(statSync(this.#files.exchange).size / 4096);
      truncateSync(this.#files.exchange, exchangeSize);
      await this.run(
        `dd if=${exchangeDevice} bs=4M iflag=direct,count_bytes count=${blocks * 4096} status=none | ${unpack(
          folder,
          basename(local),
          dom0Path,
        )}`,
      );
    });
  }

  /** Copies a file (to that name) or a folder's contents (into that folder) from dom0. */
  async copyOut(dom0Path: string, local: string): Promise<void> {
    const source = quote(dom0Path);
    const kind = await this.run(`test -d ${source} && echo folder || test -e ${source}`, { check: false });
    if (kind.code !== 0) throw new LabError('command', `there is no ${dom0Path} in dom0`);
    const folder = kind.stdout.trim() === 'folder';
    await this.#exchanging(async () => {
      const [from, names] = folder ? [dom0Path, '.'] : [dirname(dom0Path), basename(dom0Path)];
      await this.run(
        `set -o pipefail; tar -C ${quote(from)} --sparse -cf - -- ${quote(names)} | dd of=${exchangeDevice} bs=4M iflag=fullblock oflag=direct status=none`,
      );
      await must('command', 'sh', [
        '-c',
        `exec <"$1"; ${unpack(folder, basename(dom0Path), resolve(local))}`,
        'unpack',
        this.#files.exchange,
      ]);
    });
  }

  /** Returns domains by name, including dom0. */
  async domains(): Promise<ReadonlyMap<string, DomainState>> {
    return parseList((await this.run('xl list', { timeoutMs: 60_000 })).stdout);
  }

  /**
   * Creates a guest's disks and configuration, starts it and waits for its counter's first tick. A boot that
   * ends in a triple fault (one in ten under emulation) is tried again; other failures are not.
   */
  async startGuest(spec: GuestSpec): Promise<LabGuest> {
    const files = await this.makeGuest(spec);
    try {
      return await this.#steps.run(`guest ${spec.type}`, `starting ${spec.type} guest ${spec.name}`, () =>
        this.#startWithRetries(spec, files),
      );
    } catch (error) {
      throw await this.#withEvidence(error, `guest-${spec.name}`);
    }
  }

  /** Creates a guest's disks and configuration. */
  async makeGuest(spec: GuestSpec): Promise<GuestFiles> {
    const files = guestFiles(spec);
    const disks = files.disks.map((disk) => `{ ${diskCommand(disk)}; }`);
    await this.run([`mkdir -p ${files.dir}`, `cat >${files.cfg}`, ...disks].join(' && '), {
      input: guestConfig(spec),
      // The first volume needs a volume group.
      timeoutMs: 300_000,
    });
    return files;
  }

  /**
   * Returns the domains that died of a triple fault since the lab was started. Emulation causes that in one
   * in ten boots or restores of a PVH or HVM guest. Read from the machine's serial console, since `xl dmesg`
   * forgets.
   */
  tripleFaults(): number[] {
    const text = readFileSync(this.#files.console, 'latin1');
    return [...text.matchAll(/\(XEN\) d(\d+)v\d+ Triple fault/g)].map((match) => Number(match[1]));
  }

  /** Counts the mappings of a HVM or PVH guest's memory, small ones and superpages. Only under software emulation. */
  async mappings(domid: number): Promise<Mappings> {
    const { stdout } = await this.run('xl debug-keys v; xl dmesg');
    return await countMappings(findRoot(stdout, domid), (address) => readMemory(this.#files, address, 4096));
  }

  /**
   * Does a job with guests, from their start on. Under emulation a running guest may die of a triple fault at
   * any time; once in hours the whole machine freezes, libxl does not wait for a slow QEMU, or a program gets an illegal
   * instruction. If that happens and the job fails, it is done again, up to MAX_ATTEMPTS times in all. Any other failure counts.
   * @param prepare what a restarted machine needs before the job
   */
  async steadily<T>(what: string, job: () => Promise<T>, prepare?: () => Promise<void>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const before = this.tripleFaults().length;
      try {
        return await job();
      } catch (error) {
        const text = messageOf(error);
        const frozen = !(await this.#answers());
        const cause = frozen
          ? 'the machine froze'
          : (this.#emulationFault(text, before) ?? (await this.#brokenKernel()));
        if (cause === undefined || attempt === MAX_ATTEMPTS) {
          this.#steps.say(`${what}: logs of the failure are in ${await this.keepEvidence(what)}`);
          throw error;
        }
        this.#steps.say(`${what}: ${cause} (${text.split('\n', 1)[0]}); doing it again`);
        if (frozen) {
          await this.down();
          await this.up();
          await prepare?.();
        }
      }
    }
  }

  /**
   * Finds what emulation has done to a job that failed.
   * @param text the error
   * @param before how many triple faults there were when the job began
   */
  #emulationFault(text: string, before: number): string | undefined {
    const faults = this.tripleFaults().slice(before);
    if (faults.length > 0) return `emulation killed domain ${faults.join(', ')}`;
    // libxl gives a device model seconds to start; a busy emulated machine sometimes takes longer.
    if (/device model did not start|Destruction of domain failed/.test(text))
      return 'libxl did not wait for it';
    // QEMU reads an instruction in parts, so one that a thread of V8 replaces at that moment is another.
    if (/^Illegal instruction/m.test(text)) return 'emulation broke an instruction';
    return undefined;
  }

  /** Finds a guest that died of a stale breakpoint in its first ten seconds. The logs are of this job: they go with its guests. */
  async #brokenKernel(): Promise<string | undefined> {
    const look = `grep -alE '^\\[ +[0-9]\\.[0-9]+\\] ${STALE_BREAKPOINT}' /var/log/xen/guest-*.log`;
    const { stdout } = await this.run(look, { check: false, timeoutMs: 60_000 }).catch(noAnswer);
    return stdout.trim() === '' ? undefined : `emulation broke an instruction: ${stdout.trim()}`;
  }

  /** Returns whether dom0 answers within a minute. */
  async #answers(): Promise<boolean> {
    try {
      await this.run('true', { timeoutMs: 60_000 });
      return true;
    } catch {
      return false;
    }
  }

  /**
   * Destroys a guest if it exists, and removes its folder and its console's log. Its `xl` in the background goes first:
   * if emulation has killed the guest, that starts it again, and a second `xl create` then fails.
   */
  async removeGuest(name: string): Promise<void> {
    const dir = guestFiles({ type: 'pv', name }).dir;
    await this.run(
      `for p in $(find /proc/[0-9]*/fd/1 -lname '/var/log/xen/xl-${name}.log*' 2>/dev/null | cut -d/ -f3); do kill -9 $p; done
      for n in 1 2 3 4 5; do xl domid ${name} >/dev/null 2>&1 || break; xl destroy ${name}; done
      rm -rf ${dir} ${consolePath(name)} /lab/xfs/${name}-* /lab/btrfs/${name}-*
      for v in /dev/lab/${name}-*; do [ ! -b "$v" ] || lvremove -qq -f -y "$v"; done`,
      { timeoutMs: 120_000 },
    );
  }

  /** Returns everything that guests of this name have written to the console, over all their lives. */
  async guestConsole(name: string): Promise<string> {
    return (await this.run(`cat ${consolePath(name)} 2>/dev/null`, { check: false })).stdout;
  }

  async guestReport(name: string): Promise<ConsoleReport> {
    return parseConsole(await this.guestConsole(name));
  }

  /** Returns the last tick that the guest reported; undefined before the first. */
  async counter(name: string): Promise<Tick | undefined> {
    const last = await this.run(`tail -c 4096 ${consolePath(name)} 2>/dev/null`, { check: false });
    return parseConsole(last.stdout).ticks.at(-1);
  }

  /**
   * Waits until the guest has done `n` more ticks than now, whatever its number is. Gives up if emulation has
   * killed it.
   */
  async waitForTicks(name: string, n: number, timeoutMs = 120_000): Promise<Tick> {
    const from = `wc -c <${consolePath(name)}; xl domid ${name}`;
    const [size, domid] = (await this.run(from, { check: false })).stdout.split('\n').map(Number);
    const start = size ?? 0;
    const end = Date.now() + timeoutMs;
    for (;;) {
      const { stdout } = await this.run(`tail -c +${start + 1} ${consolePath(name)}`, { check: false });
      const { ticks } = parseConsole(stdout);
      const [first] = ticks;
      const last = ticks.at(-1);
      // The first line may be of a tick that was in progress when we began.
      if (first !== undefined && last !== undefined && last.n - first.n >= n) return last;
      if (domid !== undefined && domid > 0 && this.tripleFaults().includes(domid)) {
        throw new LabError('guest', `guest ${name}: emulation killed domain ${domid}`);
      }
      if (Date.now() > end) {
        const seen = first === undefined || last === undefined ? 'none' : `${first.n} to ${last.n}`;
        throw await this.#withEvidence(
          new LabError(
            'timeout',
            `guest ${name}: fewer than ${n} ticks in ${timeoutMs / 1000} s (seen: ${seen})`,
          ),
          `ticks-${name}`,
        );
      }
      await sleep(400);
    }
  }

  /** Copies consoles and logs to the failures folder, and returns its path. */
  async keepEvidence(what: string): Promise<string> {
    const time = new Date().toISOString().replaceAll(/[:.]/g, '-').slice(0, 19);
    const dir = join(this.#paths.failures, `${time}-${what.replaceAll(/[^\w.-]/g, '_')}`);
    mkdirSync(dir, { recursive: true });
    for (const file of [this.#files.console, this.#files.log]) {
      if (existsSync(file)) copyFileSync(file, join(dir, basename(file)));
    }
    if (this.status() !== undefined) {
      const look = 'xl list; xl dmesg | tail -n 200; dmesg | tail -n 100; ps ax; free -m; df -h / /tmp /run';
      const state = await this.run(look, { check: false, timeoutMs: 60_000 }).catch(noAnswer);
      writeFileSync(join(dir, 'dom0-state.txt'), `${state.stdout}\n${state.stderr}`);
      await this.copyOut('/var/log/xen', join(dir, 'xen')).catch(noAnswer);
    }
    prune(this.#paths.failures, '', 40);
    return dir;
  }

  async #startWithRetries(spec: GuestSpec, files: GuestFiles): Promise<LabGuest> {
    const most = spec.tries ?? 4;
    for (let tries = 1; ; tries++) {
      const result = await this.#bootGuest(spec, files);
      if (result.death === undefined) return { ...files, name: spec.name, domid: result.domid, tries };
      const kept = await this.keepEvidence(`boot-${spec.name}-${tries}`);
      await this.run(`xl destroy ${spec.name}`, { check: false, timeoutMs: 60_000 });
      const said = `guest ${spec.name} died while it booted (${result.death})`;
      if (!result.again || tries === most) throw new LabError('guest', `${said}; logs: ${kept}`);
      this.#steps.say(`${said}; boot ${tries + 1} of ${most}; logs: ${kept}`);
    }
  }

  async #bootGuest(spec: GuestSpec, files: GuestFiles): Promise<BootResult> {
    const log = quote(files.console);
    const before = await this.run(`cat ${log} 2>/dev/null | wc -c`);
    const offset = Number(before.stdout);
    const timeoutMs = spec.timeoutMs ?? 240_000;
    await this.run(`xl create ${quote(files.cfg)}`, { timeoutMs });
    const domid = (await this.domains()).get(spec.name)?.domid;
    if (domid === undefined) return { domid: -1, death: 'it no longer exists', again: false };
    const end = Date.now() + timeoutMs;
    for (let look = 1; ; look++) {
      const said = await this.run(`tail -c +${offset + 1} ${log}`, { check: false });
      const { up, ticks } = parseConsole(said.stdout);
      const counts = up.length > 0 && ticks.length > 0;
      // xl costs dom0 a third of a second of the processor time that the guest needs to boot.
      if (counts || look % 5 === 0) {
        const domain = (await this.domains()).get(spec.name);
        let death: string | undefined;
        if (domain === undefined) death = 'it no longer exists';
        else if (domain.domid !== domid) death = `it was restarted as domain ${domain.domid}`;
        else if (/[scd]/.test(domain.flags)) death = `its state is ${domain.flags}`;
        if (death !== undefined) {
          const cause = this.tripleFaults().includes(domid)
            ? 'triple fault'
            : said.stdout.includes(STALE_BREAKPOINT)
              ? 'stale breakpoint'
              : undefined;
          const again = cause !== undefined;
          return { domid, death: again ? `${cause}; ${death}` : death, again };
        }
        if (counts) return { domid, death: undefined, again: false };
      }
      if (Date.now() > end) {
        throw new LabError(
          'timeout',
          `guest ${spec.name}: no tick within ${timeoutMs / 1000} s\n${tail(said.stdout, 10)}`,
        );
      }
      await sleep(500);
    }
  }

  async #boot(image: Image): Promise<RunningLab> {
    const machine: Machine = {
      emulator: await findEmulator(this.#paths, this.#steps),
      accel: 'tcg',
      memoryMiB: this.#options.memoryMiB ?? 4096,
      dom0MemoryMiB: this.#options.dom0MemoryMiB ?? 1024,
      cpus: this.#options.cpus ?? defaultCpus(),
    };
    if (kvmMayWork()) {
      try {
        return await this.#start(image, { ...machine, accel: 'kvm' });
      } catch (error) {
        this.#steps.say(`KVM cannot run Xen here (${tail(messageOf(error), 1)}); using software emulation`);
      }
    }
    return await this.#start(image, machine);
  }

  async #start(image: Image, machine: Machine): Promise<RunningLab> {
    const warm = join(this.#paths.warm, this.#warmName(image, machine));
    if (this.#options.cold !== true && existsSync(join(warm, 'info.json'))) {
      try {
        return await this.#steps.run(
          `warm start ${machine.accel}`,
          `starting Xen ${this.#release.xen} from its saved state`,
          () => this.#warmStart(image, machine, warm),
        );
      } catch (error) {
        this.#steps.say(`the saved state is not usable (${tail(messageOf(error), 1)}); booting`);
        rmSync(warm, { recursive: true, force: true });
      }
    }
    const how = machine.accel === 'kvm' ? 'KVM' : 'software emulation';
    const running = await this.#steps.run(
      `cold boot ${machine.accel}`,
      `booting Xen ${this.#release.xen} (${how})`,
      () => this.#bootWithRetries(image, machine),
    );
    if (this.#options.cold !== true) await this.#saveWarm(running, warm);
    return running;
  }

  /**
   * Boots dom0, and tries again if it fails: emulation breaks a boot now and then, when a kernel patches code
   * that another processor is running.
   */
  async #bootWithRetries(image: Image, machine: Machine): Promise<RunningLab> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#coldBoot(image, machine);
      } catch (error) {
        if (machine.accel !== 'tcg' || attempt === 4) throw error;
        this.#steps.say(`dom0 did not boot (${tail(messageOf(error), 1)}); boot ${attempt + 1} of 4`);
      }
    }
  }

  async #coldBoot(image: Image, machine: Machine): Promise<RunningLab> {
    await overlay(this.#files.disk, image.disk, 'raw');
    return await this.#launch(image, machine, 'cold', async (id) => {
      await waitForConsole(id, this.#files, /\(XEN\)/, machine.accel === 'kvm' ? 20_000 : 60_000);
      await waitForConsole(id, this.#files, /LAB-READY/, machine.accel === 'kvm' ? 90_000 : 300_000);
    });
  }

  async #warmStart(image: Image, machine: Machine, warm: string): Promise<RunningLab> {
    const now = new Date();
    utimesSync(warm, now, now);
    await overlay(this.#files.disk, join(warm, 'disk.qcow2'), 'qcow2');
    return await this.#launch(image, machine, 'warm', () => loadState(this.#files, join(warm, 'state')));
  }

  /** Runs QEMU, waits for `ready` and for ssh, and records that the lab is up. */
  async #launch(
    image: Image,
    machine: Machine,
    from: RunningLab['from'],
    ready: (id: ProcessId) => Promise<void>,
  ): Promise<RunningLab> {
    const port = await freePort();
    for (const [file, size] of [
      [this.#files.exchange, exchangeSize],
      [this.#files.extra, extraSize],
    ] as const) {
      writeFileSync(file, '');
      truncateSync(file, size);
    }
    const args = machineArgs(image, machine, this.#files, port);
    if (from === 'warm') args.push('-S', '-incoming', 'defer');
    const id = await startQemu(machine.emulator, args, this.#files);
    const { accel, memoryMiB, dom0MemoryMiB } = machine;
    const running: RunningLab = {
      ...id,
      ...{
        xen: this.#release.xen,
        image: image.key,
        accel,
        port,
        key: image.sshKey,
        memoryMiB,
        dom0MemoryMiB,
      },
      started: new Date().toISOString(),
      from,
      ready: false,
    };
    this.#write(running);
    try {
      await ready(id);
      const ssh = this.#ssh(running);
      for (let tries = 0; !(await ssh.connect(5)); tries++) {
        if (!isAlive(id)) throw new LabError('boot', 'QEMU ended');
        if (tries === 12) throw new LabError('boot', 'dom0 does not answer ssh');
        await sleep(200);
      }
      // After a load, the clock is as old as the state.
      await ssh.run(`date -u -s @${(Date.now() / 1000).toFixed(1)} >/dev/null`, { timeoutMs: 20_000 });
    } catch (error) {
      await this.#ssh(running).disconnect();
      await stopQemu(id, this.#files);
      rmSync(this.#record, { force: true });
      throw error;
    }
    const up = { ...running, ready: true };
    this.#write(up);
    return up;
  }

  get #record(): string {
    return join(this.#paths.run, 'lab.json');
  }

  #write(running: RunningLab): void {
    writeFileSync(`${this.#record}.new`, `${JSON.stringify(running, null, 2)}\n`, { mode: 0o600 });
    renameSync(`${this.#record}.new`, this.#record);
  }

  /** Returns the lab's own QEMU, running or still starting. */
  #process(): RunningLab | undefined {
    const lab = readRunning(this.#record);
    return lab !== undefined && isAlive(lab) ? lab : undefined;
  }

  /** Saves the state of a lab that has just booted, then continues with it. */
  async #saveWarm(running: RunningLab, warm: string): Promise<void> {
    const temporary = join(this.#paths.warm, `.tmp-${process.pid}`);
    rmSync(temporary, { recursive: true, force: true });
    mkdirSync(temporary);
    try {
      await this.#steps.run('warm save', 'saving the booted state for faster starts', async () => {
        const ssh = this.#ssh(running);
        // Brings what every test needs into dom0's page cache.
        await ssh.run('node -e 0; xl info; xl list; qemu-img --version; python3 -c 0; sync', {
          timeoutMs: 120_000,
        });
        await ssh.disconnect();
        await saveState(this.#files, join(temporary, 'state'));
        copyFileSync(this.#files.disk, join(temporary, 'disk.qcow2'));
        await resume(this.#files);
        await ssh.connect(20);
      });
      writeFileSync(join(temporary, 'info.json'), `${JSON.stringify({ made: running.started })}\n`);
      rmSync(warm, { recursive: true, force: true });
      renameSync(temporary, warm);
      prune(this.#paths.warm, 'xen-', 2);
    } finally {
      rmSync(temporary, { recursive: true, force: true });
    }
  }

  #warmName(image: Image, machine: Machine): string {
    const args = machineArgs(image, machine, runFiles('/'), 0);
    const inputs = [machine.emulator.version, ...args].join('\0');
    const hash = createHash('sha256').update(inputs).digest('hex').slice(0, 12);
    return `${imageName(this.#release)}-${hash}`;
  }

  #checkSame(running: RunningLab): void {
    const { memoryMiB, dom0MemoryMiB } = this.#options;
    const other =
      running.xen !== this.#release.xen ||
      (this.#release.tree !== undefined && running.image !== imageKey(this.#release)) ||
      (memoryMiB !== undefined && memoryMiB !== running.memoryMiB) ||
      (dom0MemoryMiB !== undefined && dom0MemoryMiB !== running.dom0MemoryMiB);
    if (other) {
      const is = `Xen ${running.xen}, ${running.memoryMiB} MiB, dom0 ${running.dom0MemoryMiB} MiB`;
      throw new LabError('usage', `another lab is up (${is}); take it down first`);
    }
  }

  #ssh(running: RunningLab | undefined = this.status()): Ssh {
    if (running === undefined) throw new LabError('down', 'no lab is up; start it with: npm run lab -- up');
    return new Ssh({ port: running.port, key: running.key, dir: this.#paths.run });
  }

  async #withEvidence(error: unknown, what: string): Promise<unknown> {
    if (!(error instanceof LabError) || error.evidence !== undefined) return error;
    error.evidence = await this.keepEvidence(what);
    this.#steps.say(`logs of the failure are in ${error.evidence}`);
    return error;
  }

  /**
   * Runs a job that has the exchange disk, through which files are copied, to itself. Under emulation this
   * takes a tenth of the time of ssh.
   */
  async #exchanging(job: () => Promise<void>): Promise<void> {
    const say = (line: string): void => this.#steps.say(line);
    const { exchange } = this.#files;
    await withLock(`${exchange}.lock`, 'copying', say, async () => {
      try {
        await job();
      } finally {
        truncateSync(exchange, 0);
        truncateSync(exchange, exchangeSize);
      }
    });
  }

  async #locked<T>(what: string, job: () => Promise<T>): Promise<T> {
    const say = (line: string): void => this.#steps.say(line);
    return await withLock(join(this.#paths.dir, 'lock'), what, say, job);
  }
}

/** @throws {LabError} If there is no such release, or both ways to choose one are used, or the tree is not complete. */
function labRelease({ release, xenTree }: LabOptions): Release {
  if (xenTree === undefined) return findRelease(release ?? defaultXen);
  if (release !== undefined) throw new LabError('usage', 'a tree of Xen has its own release');
  return treeRelease(readXenTree(resolve(xenTree)));
}

interface BootResult {
  readonly domid: number;
  /** Why the guest is not up. */
  readonly death: string | undefined;
  /** Whether it died of a triple fault, as one in ten boots does under software emulation. */
  readonly again: boolean;
}

/**
 * Returns the shell command that unpacks a tar from its standard input. A file gets its name once it is
 * complete.
 */
function unpack(folder: boolean, name: string, target: string): string {
  const to = quote(target);
  if (folder) return `(mkdir -p ${to} && tar -C ${to} -xf -)`;
  const part = quote(`${target}.part.d`);
  const move = `mv -fT ${quote(`${target}.part.d/${name}`)} ${to}`;
  return `(rm -rf ${part} && mkdir -p ${part} && tar -C ${part} -xf - && ${move} && rmdir ${part})`;
}

/** Creates a fresh disk on top of one that is never written to. */
async function overlay(file: string, base: string, format: 'raw' | 'qcow2'): Promise<void> {
  rmSync(file, { force: true });
  await must('host', 'qemu-img', ['create', '-q', '-f', 'qcow2', '-F', format, '-b', base, file]);
}

function noAnswer(error: unknown): Outcome {
  return { code: 1, stdout: '', stderr: messageOf(error) };
}

function readRunning(file: string): RunningLab | undefined {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch {
    return undefined;
  }
  return isRunningLab(json) ? json : undefined;
}

function isRunningLab(json: unknown): json is RunningLab {
  return (
    isObject(json) &&
    typeof json['ready'] === 'boolean' &&
    ['pid', 'port', 'memoryMiB', 'dom0MemoryMiB'].every((key) => typeof json[key] === 'number') &&
    ['start', 'xen', 'image', 'accel', 'key', 'started', 'from'].every((key) => typeof json[key] === 'string')
  );
}

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  type CliContext,
  type EndingSignal,
  processContext,
  type SnapshotCalls,
} from '../../../src/cli/context.ts';
import type { DocumentedCommand } from '../../../src/cli/documented-command.ts';
import { makeProgram } from '../../../src/cli/program.ts';
import { run } from '../../../src/cli/run.ts';
import type {
  CreateResult,
  RecoverResult,
  RevertPlan,
  RevertResult,
  SnapshotPlan,
} from '../../../src/snapshot/api.ts';
import type { DeletePlan, DeleteResult } from '../../../src/snapshot/delete/types.ts';
import type { SnapshotList } from '../../../src/snapshot/list/list.ts';
import type { Host, ImageHost } from '../../../src/snapshot/ports.ts';
import type { DoctorReport } from '../../../src/toolstack/doctor/doctor.ts';
import type { HostOptions } from '../../../src/toolstack/host.ts';
import { benchResult } from '../bench/samples.ts';

export const plan: SnapshotPlan = {
  name: 'before upgrade',
  description: 'two\nlines',
  domid: 7,
  uuid: '01234567-89ab-cdef-0123-456789abcdef',
  domain: 'guest1',
  type: 'pvh',
  live: true,
  tracking: false,
  precopy: { maxRounds: 5, targetDowntimeMs: 300 },
  state: 'running',
  memoryPath: '/var/lib/xen/snapshots/u/before upgrade.save',
  stream: false,
  configPath: '/var/lib/xen/snapshots/u/before upgrade.save.cfg',
  manifestPath: '/var/lib/xen/snapshots/u/before upgrade.save.json',
  memoryBytes: 512 * 2 ** 20,
  disks: [
    { kind: 'internal', vdev: 'xvda', image: '/d/a.qcow2', tag: 'before upgrade' },
    { kind: 'external', vdev: 'xvdb', base: '/d/b.raw', baseFormat: 'raw', overlay: '/d/b1.qcow2' },
  ],
  uncovered: ['xvdc'],
  unknownDrives: [],
  suspendTimeoutMs: 60_000,
  sync: true,
  warnings: ['disk xvdc moves on'],
};

export const createResult: CreateResult = {
  plan,
  xen: { major: 4, minor: 20, extra: '.4-pre' },
  phases: [
    { name: 'plan', startSeconds: 0, seconds: 9 },
    { name: 'suspend', startSeconds: 9, seconds: 5 },
    { name: 'memory', startSeconds: 14, seconds: 1.9 },
    { name: 'disks', startSeconds: 15.9, seconds: 0.3 },
    { name: 'resume', startSeconds: 16.2, seconds: 0.1 },
    { name: 'finish', startSeconds: 16.4, seconds: 7 },
  ],
  rounds: [
    { pages: 131072, seconds: 1.1, dirtyAfter: 900 },
    { pages: 900, seconds: 0.01, dirtyAfter: 30 },
    { pages: 35, seconds: 0.001, dirtyAfter: 0 },
  ],
  downtimeSeconds: 2.4,
  totalSeconds: 23,
  fileBytes: 512 * 2 ** 20,
  allocatedBytes: 201 * 2 ** 20,
  tracked: { parent: '/srv/earlier.save', pages: 900 },
  tracking: true,
  pages: 131072,
  zeroPages: 79616,
  pagesWrittenStopped: 0,
  warnings: plan.warnings,
};

export const revertPlan: RevertPlan = {
  name: plan.name,
  domain: 'guest1',
  uuid: plan.uuid,
  created: '2026-11-23T20:15:30.000Z',
  domid: 7,
  memoryPath: plan.memoryPath,
  state: 'paused',
  disks: [
    { kind: 'internal', vdev: 'xvda', image: '/d/a.qcow2', tag: plan.name },
    {
      kind: 'external',
      vdev: 'xvdb',
      base: '/d/b.raw',
      baseFormat: 'raw',
      overlay: '/d/b1.qcow2',
      replaced: '/d/b1.qcow2',
    },
  ],
  risks: [{ risk: 'config-changed', message: 'the configuration changed' }],
  warnings: [],
};

export const revertResult: RevertResult = {
  plan: revertPlan,
  domid: 8,
  phases: [{ name: 'restore', startSeconds: 0.4, seconds: 3 }],
  totalSeconds: 3.4,
  awaySeconds: 3.1,
  kept: ['/d/b1.qcow2.kept'],
  warnings: ['config-changed: the configuration changed', 'a safety tag is left'],
};

export const deletePlan: DeletePlan = {
  domain: 'guest1',
  domid: 7,
  snapshots: [
    {
      name: plan.name,
      domain: 'guest1',
      uuid: plan.uuid,
      created: '2026-11-24T20:15:30.000Z',
      memoryPath: plan.memoryPath,
      files: [`${plan.memoryPath}.cfg`, plan.memoryPath, `${plan.memoryPath}.json`],
      allocatedBytes: 201 * 2 ** 20,
      disks: [
        { kind: 'internal', vdev: 'xvda', image: '/d/a.qcow2', tag: plan.name, action: 'delete' },
        {
          kind: 'external',
          vdev: 'xvdb',
          base: '/d/b.raw',
          overlay: '/d/b1.qcow2',
          action: 'keep',
          reason: 'domain guest1 (domid 7) uses /d/b1.qcow2, which depends on /d/b.raw',
        },
      ],
    },
  ],
  refused: [
    {
      name: 'old',
      created: '2026-11-23T20:15:30.000Z',
      memoryPath: '/srv/old.save',
      problems: [{ code: 'IMAGE_IN_USE', message: 'disk xvda: it is in use', hint: 'shut it down first' }],
    },
  ],
  unfinished: ['/srv/half.save.journal'],
  warnings: ['a journal cannot be read'],
};

export const deleteResult: DeleteResult = {
  plan: { ...deletePlan, refused: [] },
  finished: [
    {
      journal: '/srv/half.save.journal',
      kind: 'delete',
      outcome: 'deleted',
      name: 'half',
      domain: 'guest1',
      undone: ['removed /srv/half.save'],
    },
  ],
  phases: [{ name: 'delete', startSeconds: 0.1, seconds: 0.2 }],
  totalSeconds: 0.3,
  warnings: deletePlan.warnings,
};

const listed = {
  description: '',
  domain: 'guest1',
  uuid: plan.uuid,
  type: 'pvh',
  fileBytes: 512 * 2 ** 20,
  disks: plan.disks,
} as const;

export const snapshotList: SnapshotList = {
  directories: ['/var/lib/xen/snapshots', '/srv'],
  snapshots: [
    {
      ...listed,
      name: 'gone',
      created: '2026-11-23T20:15:30.000Z',
      state: 'running',
      memoryPath: '/srv/gone.save',
      manifestPath: '/srv/gone.save.json',
      revert: 'impossible',
      problems: [{ code: 'NO_TAG', message: 'disk xvda: there is no such tag', hint: 'it has none' }],
      risks: [],
    },
    {
      ...listed,
      name: plan.name,
      created: '2026-11-24T20:15:30.000Z',
      state: 'paused',
      memoryPath: plan.memoryPath,
      configPath: plan.configPath ?? '',
      manifestPath: plan.manifestPath ?? '',
      allocatedBytes: 201 * 2 ** 20,
      revert: 'risky',
      problems: [],
      risks: [{ risk: 'base-written', message: '/d/b.raw was written to', vdev: 'xvdb' }],
    },
    {
      ...listed,
      name: 'new',
      created: '2026-11-25T20:15:30.000Z',
      state: 'running',
      memoryPath: '/srv/new.save',
      configPath: '/srv/new.save.cfg',
      manifestPath: '/srv/new.save.json',
      allocatedBytes: 300 * 1024,
      disks: [],
      revert: 'possible',
      problems: [],
      risks: [],
    },
  ],
  damaged: [
    {
      name: 'torn',
      domain: 'guest1',
      memoryPath: '/srv/torn.save',
      manifestPath: '/srv/torn.save.json',
      message: 'the manifest /srv/torn.save.json is not JSON',
    },
  ],
};

export const doctorReport: DoctorReport = {
  ok: true,
  checks: [
    { name: 'node', status: 'ok', version: '20.19.2', message: '/usr/bin/node' },
    { name: 'lock-directory', status: 'ok', message: '/run/xlsnap' },
  ],
  domains: [
    {
      domain: 'guest1',
      domid: 7,
      type: 'pvh',
      state: 'running',
      possible: true,
      byDefault: true,
      live: true,
      disks: [
        {
          vdev: 'xvda',
          path: '/d/a.qcow2',
          format: 'qcow2',
          volume: true,
          internal: true,
          external: true,
          obstacles: [],
        },
      ],
      obstacles: [],
      liveObstacles: [],
      qemu: '10.0.13',
      warnings: [],
    },
  ],
};

export const recoverResult: RecoverResult = {
  journal: `${plan.memoryPath}.journal`,
  kind: 'create',
  outcome: 'undone',
  name: plan.name,
  domain: 'guest1',
  guest: 'running',
  undone: ['resumed the guest'],
};

export const revertRecovered: RecoverResult = {
  journal: `/var/lib/xen/snapshots/${plan.uuid}.revert.journal`,
  kind: 'revert',
  outcome: 'reverted',
  name: plan.name,
  domain: 'guest1',
  guest: 'paused',
  undone: ['removed the safety tag of disk xvda'],
  kept: ['/d/b1.qcow2.before-1'],
  halfBuilt: 9,
  next: 'xlsnap snapshot-revert guest1 /x/s.save.cfg --keep',
};

export interface Outcome {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
  /** How often the host was opened and closed. */
  readonly opened: number;
  readonly closed: number;
  readonly calls: readonly { readonly name: string; readonly request: unknown }[];
}

export interface World {
  /** Replaces calls; the others return the samples above. */
  readonly calls?: Partial<SnapshotCalls>;
  readonly env?: Record<string, string>;
  readonly tty?: boolean;
  readonly columns?: number;
  readonly now?: () => number;
  readonly openHost?: (options?: HostOptions) => Promise<Host>;
  /** Gets the options of `doctor`. */
  readonly onDoctor?: (options?: HostOptions) => void;
  readonly closeHost?: () => Promise<void>;
  readonly doctor?: DoctorReport;
  /** Receives the function that delivers a signal. */
  readonly signals?: (send: (signal: EndingSignal) => void) => void;
}

/** Runs the command line in this process. */
export async function xlsnap(args: readonly string[], world: World = {}): Promise<Outcome> {
  let stdout = '';
  let stderr = '';
  let opened = 0;
  let closed = 0;
  const calls: { name: string; request: unknown }[] = [];
  const tty = {
    isTTY: world.tty === true,
    ...(world.columns === undefined ? {} : { columns: world.columns }),
  };
  const note = <T>(name: keyof SnapshotCalls, answer: T) => {
    return async (host: Host, request: never, options: never): Promise<T> => {
      calls.push({ name, request });
      const own = world.calls?.[name] as ((...all: unknown[]) => Promise<T>) | undefined;
      return own === undefined ? answer : await own(host, request, options);
    };
  };
  const context: CliContext = {
    stdout: { ...tty, write: (text) => (stdout += text) },
    stderr: { ...tty, write: (text) => (stderr += text) },
    env: world.env ?? {},
    program: '/usr/bin/xlsnap',
    now: world.now ?? (() => performance.now()),
    onSignal(listener) {
      world.signals?.(listener);
      return () => {};
    },
    deferStops: () => () => {},
    startGuardian: () => undefined,
    openHost: (options) => {
      opened++;
      if (world.openHost !== undefined) return world.openHost(options);
      return Promise.resolve({
        async [Symbol.asyncDispose]() {
          closed++;
          await world.closeHost?.();
        },
      } as Partial<Host> as Host);
    },
    openImages: () => Promise.resolve({ images: {} } as Partial<ImageHost> as ImageHost),
    runDoctor: (_domain, options) => {
      world.onDoctor?.(options);
      return Promise.resolve(world.doctor ?? doctorReport);
    },
    loadCalls: () =>
      Promise.resolve({
        planCreate: note('planCreate', plan),
        createSnapshot: note('createSnapshot', createResult),
        planRevert: note('planRevert', revertPlan),
        revertSnapshot: note('revertSnapshot', revertResult),
        snapshotNames: (_host, request) => {
          calls.push({ name: 'snapshotNames', request });
          return Promise.resolve(['new', 'before upgrade']);
        },
        listSnapshots: async (_host, request) => {
          calls.push({ name: 'listSnapshots', request });
          return world.calls?.listSnapshots?.(_host, request, {}) ?? snapshotList;
        },
        planDelete: note('planDelete', deletePlan),
        deleteSnapshots: note('deleteSnapshots', deleteResult),
        findSnapshotConfig: (_host, request) => {
          calls.push({ name: 'findSnapshotConfig', request });
          return Promise.resolve({ name: request.name, memoryPath: `/srv/${request.name}.save` });
        },
        stopTracking: note('stopTracking', { domain: 'guest1', domid: 7, tracked: true, warnings: [] }),
        recoverSnapshot: note('recoverSnapshot', recoverResult),
        recoverAll: note('recoverAll', [recoverResult, revertRecovered]),
      }),
    loadBench: () =>
      Promise.resolve({
        runBench: (_host, request) => {
          calls.push({ name: 'runBench', request });
          return Promise.resolve(benchResult);
        },
        benchReport: (_result, command) => `<html>${command}</html>\n`,
      }),
    own: ['node', 'xlsnap.js'],
  };
  const code = await run(args, context);
  return { code, stdout, stderr, opened, closed, calls };
}

/** The definitions of a command line that can do nothing. */
export function program(): DocumentedCommand {
  return makeProgram(processContext(), () => {});
}

/** Returns the keys that docs/scripting.md lists for a `message_type`, from the table below its heading. */
export function documentedKeys(type: string): (string | undefined)[] {
  const document = readFileSync(join(import.meta.dirname, '../../../docs/scripting.md'), 'utf8');
  const section = document.split(`\n#### \`${type}\`\n`)[1]?.split('\n#')[0] ?? '';
  return [...section.matchAll(/^\| (`[^|]*) \|/gm)].flatMap(([, cell = '']) =>
    [...cell.matchAll(/`(\w+)`/g)].map(([, key]) => key),
  );
}

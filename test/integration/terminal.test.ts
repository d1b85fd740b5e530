import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { tempDir } from '../support/temp.ts';

// Readers that do not read, terminals that stop, and hang-ups: with real processes, pipes and terminals.

const root = join(import.meta.dirname, '../..');
const create = `${process.execPath} --import tsx ${join(root, 'test/support/slow-create.ts')}`;
const node = `${process.execPath} --import tsx --input-type=module -e "$CODE"`;
const TIMEOUT_MS = 100_000;

/**
 * Starts bash in a session of its own. With `terminal`, on a terminal that gets `stdin` and shows `stdout`.
 */
function bash(command: string, options: { terminal?: boolean; code?: string } = {}) {
  const [program, args] =
    options.terminal === true ? ['script', ['-qefc', command, '/dev/null']] : ['bash', ['-c', command]];
  const child = spawn(program as string, args as string[], {
    cwd: root,
    env: { ...process.env, SHELL: '/bin/bash', CODE: options.code ?? '' },
    detached: true,
    stdio: 'pipe',
  });
  let stdout = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.resume();
  child.stdin.on('error', () => {});
  return {
    child,
    shown: () => stdout.replaceAll('\r\n', '\n'),
    [Symbol.asyncDispose]: () => ended(child),
  };
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  try {
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  } catch {}
  await exit;
}

/** A directory for `slow-create`. */
async function place() {
  const directory = await tempDir();
  const { path } = directory;
  writeFileSync(join(path, 'snap.cfg'), `name="s1"\nmemory_path="${path}/s1.save"\ndisks=[]\n`);
  return {
    path,
    calls: () => {
      const file = join(path, 'calls');
      return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
    },
    go: () => writeFileSync(join(path, 'go'), ''),
    [Symbol.asyncDispose]: () => directory[Symbol.asyncDispose](),
  };
}

async function until(what: () => boolean): Promise<void> {
  for (let i = 0; i < 4000 && !what(); i++) await sleep(20);
  expect(what()).toBe(true);
}

/** Returns the state of a process as `ps` shows it: `T` means stopped. */
function stateOf(pid: number): string | undefined {
  return readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.[0];
}

test(
  'a pipe that nobody reads keeps no guest stopped: the create ends, and signals arrive',
  async () => {
    await using at = await place();
    // The reader of the FIFO keeps it open, and reads nothing.
    const command = `mkfifo ${at.path}/fifo; sleep 60 < ${at.path}/fifo & exec ${create} ${at.path} 2> ${at.path}/fifo`;
    await using process = bash(command);
    await until(() => at.calls().includes('wrote'));
    process.child.kill('SIGTERM');
    await until(() => at.calls().includes('exit 143'));
    expect(at.calls()).toEqual(['suspend', 'stands still', 'wrote', 'resume', 'exit 143']);
  },
  TIMEOUT_MS,
);

test(
  'a terminal stopped by Ctrl-S keeps no guest stopped either',
  async () => {
    await using at = await place();
    // Not stdout: the result waits for its reader, and the guest runs by then.
    await using terminal = bash(`echo up; read -r; ${create} ${at.path} > /dev/null`, { terminal: true });
    await until(() => terminal.shown().includes('up'));
    terminal.child.stdin.write('\n\x13');
    await until(() => at.calls().includes('wrote'));
    at.go();
    await until(() => at.calls().includes('exit 0'));
    expect(at.calls()).toEqual(['suspend', 'stands still', 'wrote', 'resume', 'exit 0']);
  },
  TIMEOUT_MS,
);

test(
  'Ctrl-Z while the guest is stopped stops xlsnap once the guest runs again',
  async () => {
    await using at = await place();
    const command = `set -m; ${create} ${at.path} 2> /dev/null & echo "pid $!"; wait $!; read -r`;
    await using shell = bash(command);
    await until(() => at.calls().includes('wrote'));
    const pid = Number(/pid (\d+)/.exec(shell.shown())?.[1]);
    process.kill(pid, 'SIGTSTP');
    await sleep(300);
    expect(stateOf(pid)).not.toBe('T');
    at.go();
    await until(() => at.calls().includes('resume'));
    await until(() => stateOf(pid) === 'T');
    expect(at.calls()).toEqual(['suspend', 'stands still', 'wrote', 'resume']);
    process.kill(pid, 'SIGCONT');
    await until(() => at.calls().includes('exit 0'));
  },
  TIMEOUT_MS,
);

test(
  'a terminal that stops background output stops xlsnap once the guest runs again',
  async () => {
    await using at = await place();
    const command = `set -m; FLUSH=1 ${create} ${at.path} & echo "pid $!"; read -r; stty tostop; echo set; read -r; stty -tostop; kill -CONT $!; read -r`;
    await using terminal = bash(command, { terminal: true });
    await until(() => at.calls().includes('wrote'));
    const pid = Number(/pid (\d+)/.exec(terminal.shown())?.[1]);
    terminal.child.stdin.write('\n');
    await until(() => terminal.shown().includes('set\n'));
    at.go();
    await until(() => stateOf(pid) === 'T');
    expect(at.calls()).toEqual(['suspend', 'stands still', 'wrote', 'resume']);
    terminal.child.stdin.write('\n');
    await until(() => at.calls().includes('exit 0'));
    await until(() => terminal.shown().includes('late'));
  },
  TIMEOUT_MS,
);

test(
  'all output arrives on a pipe that is read slowly',
  async () => {
    await using at = await place();
    at.go();
    await using shell = bash(
      `FLUSH=1 ${create} ${at.path} 2>&1 >/dev/null | (sleep 2; grep -c "^line "; echo read)`,
    );
    await until(() => shell.shown().includes('read'));
    expect(shell.shown()).toBe('2000\nread\n');
  },
  TIMEOUT_MS,
);

test(
  'all output arrives in a file',
  async () => {
    await using at = await place();
    at.go();
    await using shell = bash(
      `FLUSH=1 ${create} ${at.path} 2> ${at.path}/log; grep -c "^line " ${at.path}/log; echo read`,
    );
    await until(() => shell.shown().includes('read'));
    expect(shell.shown()).toContain('2000\nread\n');
  },
  TIMEOUT_MS,
);

const says = `
  import { processContext } from './src/cli/context.ts';
  processContext().onSignal((name) => console.log(name));
  process.kill(process.pid, 'SIGHUP');
  setTimeout(() => { console.log('still there'); process.exit(); }, 300);
`;

test(
  'a hang-up of the terminal ends a create',
  async () => {
    await using terminal = bash(node, { terminal: true, code: says });
    await until(() => terminal.shown().includes('still there'));
    expect(terminal.shown()).toBe('SIGHUP\nstill there\n');
  },
  TIMEOUT_MS,
);

test(
  'a hang-up does not end a process that nohup has started',
  async () => {
    await using at = await place();
    const command = `cd ${at.path} && nohup sh -c 'cd ${root} && exec ${node}'; cat ${at.path}/nohup.out; echo all`;
    await using terminal = bash(command, { terminal: true, code: says });
    await until(() => terminal.shown().includes('all\n'));
    expect(terminal.shown()).toMatch(/still there\nall\n/);
    expect(terminal.shown()).not.toContain('SIGHUP\n');
  },
  TIMEOUT_MS,
);

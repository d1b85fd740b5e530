/** The guardian as a process: what ends it, what starts its program, which files it keeps open. */
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { EnvironmentError } from '../../src/core/errors.ts';
import { startGuardian } from '../../src/toolstack/guardian.ts';
import { tempDir } from '../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(() => directory[Symbol.asyncDispose]());

const root = join(import.meta.dirname, '../..');
const mark = (): string => join(directory.path, 'mark');

/** Waits until the guardian has no process or file of its own left. */
const WRITE_DOWN =
  'while IFS= read -r line; do set -- "$@" "$line"; done; printf "%s\\n" "$@" > "$0".new && mv "$0".new "$0"';

/** A process with a guardian whose program writes down its input; `then` is what the process does. */
function script(then: string): string {
  return `
    import { startGuardian } from ${JSON.stringify(join(root, 'src/toolstack/guardian.ts'))};
    const program = ['/bin/sh', '-c', ${JSON.stringify(WRITE_DOWN)}, ${JSON.stringify(mark())}];
    const guardian = startGuardian(program);
    guardian.watch(${JSON.stringify(JOURNAL)});
    ${then}
  `;
}

const JOURNAL = '/x/$(touch /tmp/no)`; "\'\n.journal';
const node = (text: string): string[] => ['--import', 'tsx', '--input-type=module', '-e', text];
const ALONE = `${JSON.stringify(JOURNAL)}\n`;
const told = (): string | undefined => (existsSync(mark()) ? readFileSync(mark(), 'utf8') : undefined);

it.each(['SIGKILL', 'SIGSEGV', 'SIGABRT'])(
  'the guardian acts when its process ends by %s',
  async (signal) => {
    const text = script(`process.kill(process.pid, '${signal}'); setInterval(() => {}, 1000);`);
    expect(spawnSync(process.execPath, node(text), { cwd: root }).signal).toBe(signal);
    await expect.poll(told, { timeout: 20_000 }).toBe(ALONE);
  },
);

it('acts when its process ends without a word', async () => {
  spawnSync(process.execPath, node(script('process.exit(1);')), { cwd: root });
  await expect.poll(told, { timeout: 20_000 }).toBe(ALONE);
});

it('notices that it is dismissed, and does not keep its process running', async () => {
  const { status, stdout } = spawnSync(
    process.execPath,
    node(script("guardian.dismiss(); process.on('exit', () => console.log('ends by itself'));")),
    { cwd: root, encoding: 'utf8', timeout: 50_000 },
  );
  expect({ status, stdout }).toEqual({ status: 0, stdout: 'ends by itself\n' });
  await expect.poll(told, { timeout: 20_000 }).toBe(`${ALONE}done\n`);
});

it('is not started without a program', () => {
  expect(() => startGuardian([join(directory.path, 'none')])).toThrow(EnvironmentError);
});

/** Runs the program itself with `input`, and returns its exit code. */
function guardianMain(input: string): number | null {
  return spawnSync(process.execPath, ['--import', 'tsx', 'src/toolstack/guardian-main.ts'], {
    cwd: root,
    input,
    timeout: 50_000,
  }).status;
}

it.each([
  ['it is dismissed', `${JSON.stringify('/x.journal')}\ndone\n`],
  ['it is dismissed before it gets a journal', 'done\n'],
  ['its process ends before there is a journal', ''],
])('does nothing if %s', (_, input) => {
  expect(guardianMain(input)).toBe(0);
});

it('the guardian outlives a Ctrl-C, and keeps no file of its process open', async () => {
  const text = script("console.log('ready'); setInterval(() => {}, 1000);");
  const child = spawn(
    '/bin/sh',
    ['-c', 'exec 7>"$0"; exec "$@"', join(directory.path, 'seven'), process.execPath, ...node(text)],
    {
      cwd: root,
      stdio: ['ignore', 'pipe', 'inherit'],
      detached: true,
    },
  );
  await new Promise((resolve) => child.stdout.once('data', resolve));
  const pid = Number(
    spawnSync('pgrep', ['-P', String(child.pid), '-f', 'while IFS'], { encoding: 'utf8' }).stdout,
  );
  expect(pid).toBeGreaterThan(1);
  // Node keeps the first sixteen descriptors from children; whoever ran this test may have left others open.
  const files = readdirSync(`/proc/${pid}/fd`)
    .filter((fd) => Number(fd) < 16)
    .map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
  expect(files).toEqual([expect.stringMatching(/^socket:/), '/dev/null', '/dev/null']);
  expect(readlinkSync(`/proc/${pid}/cwd`)).toBe('/');
  // The terminal's Ctrl-C goes to the whole group.
  process.kill(-(child.pid ?? 0), 'SIGINT');
  await expect.poll(told, { timeout: 20_000 }).toBe(ALONE);
});

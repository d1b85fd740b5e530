import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { EXIT } from '../../../src/core/errors.ts';

// The few things that only a process of its own can show.
const root = join(import.meta.dirname, '../../..');

function shell(command: string) {
  const run = `${process.execPath} --import tsx ${join(root, 'src/cli/main.ts')}`;
  return spawnSync('bash', ['-c', command.replaceAll('xlsnap', run)], { cwd: root, encoding: 'utf8' });
}

test('a wrong argument gives its exit code, and a message on stderr', () => {
  const { status, stdout, stderr } = shell('xlsnap snapshot-create');
  expect({ status, stdout }).toEqual({ status: EXIT.usage, stdout: '' });
  expect(stderr).toMatch(/^error: missing required argument/);
}, 30_000);

test('a reader that goes away does no harm', () => {
  const { stdout, stderr } = shell('set -o pipefail; xlsnap --help | true; echo $?');
  expect({ stdout, stderr }).toEqual({ stdout: '0\n', stderr: '' });
}, 30_000);

test('a result that cannot be written is an error', () => {
  const { status, stderr } = shell('xlsnap --version > /dev/full');
  expect(status).toBe(EXIT.output);
  expect(stderr).toContain('ENOSPC');
}, 30_000);

test('real signals arrive until nobody listens', () => {
  const script = `
    import { processContext } from './src/cli/context.ts';
    const stop = processContext().onSignal((name) => {
      console.log(name);
      if (name === 'SIGTERM') { stop(); process.kill(process.pid, 'SIGTERM'); }
      else process.kill(process.pid, name === 'SIGHUP' ? 'SIGINT' : 'SIGTERM');
    });
    setTimeout(() => {}, 20000);
    process.kill(process.pid, 'SIGHUP');
  `;
  // On a terminal: without one a hang-up is ignored.
  const command = `${process.execPath} --import tsx --input-type=module -e "$CODE"`;
  const { stdout, status } = spawnSync('script', ['-qefc', command, '/dev/null'], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, SHELL: '/bin/bash', CODE: script },
  });
  expect({ stdout, status }).toEqual({ stdout: 'SIGHUP\r\nSIGINT\r\nSIGTERM\r\n', status: 128 + 15 });
}, 30_000);

import { spawnSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { bashCompletion, zshCompletion } from '../../../src/cli/completion.ts';
import { riskNames } from '../../../src/snapshot/risks.ts';
import { fakeProgram } from '../../support/fake-program.ts';
import { tempDir } from '../../support/temp.ts';
import { program, xlsnap } from './support.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let undo = (): void => {};

beforeAll(async () => {
  directory = await tempDir();
  const list = [
    'Name    ID   Mem VCPUs State Time(s)',
    'Domain-0 0 1024 1 r----- 9.5',
    'guest1 7 64 1 -b---- 1',
    'web 8',
  ];
  undo = fakeProgram(directory.path, 'xl', `cat <<'END'\n${list.join('\n')}\nEND`);
  await mkdir(join(directory.path, 'a directory'));
  await writeFile(join(directory.path, 'a file.cfg'), '');
});

afterAll(async () => {
  undo();
  await directory[Symbol.asyncDispose]();
});

/** Returns what bash would offer for the last word. */
function offers(...words: string[]): string[] {
  const script = `${bashCompletion(program())}
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _xlsnap; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout, stderr, status } = spawnSync('bash', ['-c', script, 'bash', 'xlsnap', ...words], {
    encoding: 'utf8',
    cwd: directory.path,
  });
  expect({ stderr, status }).toEqual({ stderr: '', status: 0 });
  return stdout.split('\n').filter((line) => line !== '');
}

describe('bash', () => {
  test('commands', () => {
    expect(offers('snap')).toEqual([
      'snapshot-create',
      'snapshot-list',
      'snapshot-revert',
      'snapshot-delete',
    ]);
    expect(offers('')).toContain('doctor');
  });

  test('options, but not the hidden ones', () => {
    expect(offers('snapshot-create', '--ma')).toEqual(['--max-rounds', '--max-downtime']);
    expect(offers('snapshot-create', '--d')).toEqual(['--dry-run']);
    expect(offers('snapshot-revert', 'guest1', '--ru')).toEqual(['--running']);
  });

  test('names of the snapshots of the domain, and files', () => {
    // The one of the domain that is on the command line.
    const names = `[ "$1 $2 $3" = 'snapshot-list guest1 --names' ] && printf 'new\nbefore upgrade\nnone\n'`;
    const forget = fakeProgram(directory.path, 'xlsnap', names);
    try {
      expect(offers('snapshot-revert', 'guest1', 'n')).toEqual(['new', 'none']);
      expect(offers('snapshot-revert', '--dir', 'x', 'guest1', 'be')).toEqual(['before upgrade']);
      expect(offers('snapshot-delete', 'guest1', 'new', 'no')).toEqual(['none']);
      expect(offers('snapshot-delete', 'guest1', 'a ').sort()).toEqual(['a directory', 'a file.cfg']);
      expect(offers('snapshot-delete', 'web', 'n')).toEqual([]);
      expect(offers('snapshot-list', '')).toEqual(['guest1', 'web']);
    } finally {
      forget();
    }
  });

  test('domains, and not dom0', () => {
    expect(offers('snapshot-create', '')).toEqual(['guest1', 'web']);
    expect(offers('snapshot-create', '--name', 'x', '--live', 'w')).toEqual(['web']);
    expect(offers('doctor', 'g')).toEqual(['guest1']);
  });

  test('files, with spaces in their names', () => {
    expect(offers('snapshot-revert', 'guest1', 'a').sort()).toEqual(['a directory', 'a file.cfg']);
    expect(offers('install-xl-wrapper', '--prefix', 'a')).toEqual(['a directory']);
  });

  test('names of risks, also after a comma', () => {
    expect(offers('snapshot-revert', 'guest1', 'a file.cfg', '--accept', '')).toEqual(riskNames());
    expect(offers('snapshot-revert', '--accept', 'xen-changed,no-')).toEqual(['xen-changed,no-manifest']);
    expect(offers('bench', 'guest1', '--paths', 'xl-save,p')).toEqual(['xl-save,paused']);
    expect(offers('help', 'snapshot-r')).toEqual(['snapshot-revert']);
    expect(zshCompletion(program())).toContain(`_sequence compadd - ${riskNames().join(' ')}`);
  });

  test('nothing for a value that only the user knows, and nothing after the last argument', () => {
    expect(offers('snapshot-create', '--name', '')).toEqual([]);
    expect(offers('verify', 'a file.cfg', '')).toEqual([]);
    expect(offers('completion', '')).toEqual(['bash', 'zsh']);
    expect(offers('no-such-command', '')).toEqual([]);
  });
});

test.skipIf(spawnSync('zsh', ['-c', 'true']).status !== 0)(
  'zsh can read its script (skipped: no zsh here)',
  () => {
    const { status, stderr } = spawnSync('zsh', ['-n'], {
      input: zshCompletion(program()),
      encoding: 'utf8',
    });
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
  },
);

test.each([bashCompletion, zshCompletion])(
  'a new option and a new command are included automatically: $name',
  (make) => {
    const changed = program();
    changed
      .command('frobnicate')
      .summary('does it')
      .argument('<domain>')
      .option('--grit <file>', 'how rough');
    const before = make(program());
    expect(before).not.toMatch(/frobnicate|--grit/);
    expect(make(changed)).toMatch(/frobnicate/);
    expect(make(changed)).toMatch(/--grit/);
  },
);

test.each(['bash', 'zsh'])('every visible option of every command is in it: %s', async (shell) => {
  const { code, stdout } = await xlsnap(['completion', shell]);
  expect(code).toBe(0);
  for (const command of program().commands) {
    expect(stdout).toContain(command.name());
    for (const { long, hidden } of command.options) {
      if (long) expect(stdout.includes(long), `${command.name()} ${long}`).toBe(!hidden);
    }
  }
});

test('every argument of every command has a completion', () => {
  const script = bashCompletion(program());
  for (const command of program().commands) {
    for (const [at, argument] of command.registeredArguments.entries()) {
      const which = `${command.name()}:${argument.variadic ? '*' : at}`;
      expect(script, `${which} ${argument.name()}: add it to KINDS`).toContain(`\n  ${which}) `);
    }
  }
});

test('another shell is a usage error', async () => {
  const { code, stderr } = await xlsnap(['completion', 'fish']);
  expect(code).toBe(2);
  expect(stderr).toContain('bash, zsh');
});

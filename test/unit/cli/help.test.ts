import { expect, test } from 'vitest';
import { program, xlsnap } from './support.ts';

test.each([[], ...program().commands.map((command) => [command.name()])])(
  'no line is longer than 80 characters: xlsnap %s --help',
  async (...command) => {
    const { code, stdout } = await xlsnap([...command, '--help']);
    expect(code).toBe(0);
    expect(stdout.split('\n').filter((line) => line.length > 80)).toEqual([]);
    if (command.length > 0) expect(stdout).toContain('\nExamples:\n');
  },
);

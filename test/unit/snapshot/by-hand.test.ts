import { execFileSync } from 'node:child_process';
import { expect, it } from 'vitest';
import { planPartialUndo } from '../../../src/snapshot/create/undo.ts';
import { Phases } from '../../../src/snapshot/phases.ts';
import type { Host } from '../../../src/snapshot/ports.ts';
import { planRevertDiskUndo } from '../../../src/snapshot/revert/kept.ts';
import { TagWay } from '../../../src/snapshot/revert/tag-way.ts';

const EVIL = "/srv/my snaps/a; echo $(echo b) 'c'";

/** Splits a command into words as a shell does. */
function words(command: string): string[] {
  const script = 'for word in "$@"; do printf "%s\\n" "$word"; done';
  const [first = ''] = command.split(' && ');
  return execFileSync('sh', ['-c', `set -- ${first}; ${script}`], { encoding: 'utf8' })
    .trim()
    .split('\n');
}

it.each([
  ['the partial file', (phases: Phases) => planPartialUndo(phases, EVIL, fails), `${EVIL}.partial`],
  [
    'a disk',
    (phases: Phases) =>
      void planRevertDiskUndo(
        phases,
        new TagWay({} as Host, { kind: 'internal', vdev: 'xvda', image: EVIL, tag: 's1' }),
        'm',
        fails,
      ),
    EVIL,
  ],
])('what is to be done by hand for %s can be pasted into a shell', async (_what, plan, path) => {
  const phases = new Phases({});
  phases.onUndo('was reached', 'nothing', fails);
  plan(phases);
  const { failures } = await phases.undo();
  const hands = failures
    .map((failure) => failure.split('by hand: ')[1] ?? '')
    .filter((hand) => hand !== 'nothing');
  expect(hands).toHaveLength(1);
  for (const hand of hands) expect(words(hand)).toContain(path);
});

function fails(): Promise<never> {
  return Promise.reject(new Error('fails'));
}

// Checks the subjects of commits that are not on the main branch yet: at most 72 characters, not empty
// (CONTRIBUTING.md).
import { spawnSync } from 'node:child_process';
import { root } from './dependencies.mjs';

const MAX_SUBJECT = 72;

function git(...args) {
  const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' });
  return status === 0 ? stdout.trim() : undefined;
}

/** The branch that the commits are for: upstream's if there is one, else the local one. */
const base = ['origin/main', 'main'].find(
  (name) => git('rev-parse', '--verify', '--quiet', name) !== undefined,
);
const subjects =
  base === undefined ? undefined : git('log', '--no-merges', '--format=%h %s', `${base}..HEAD`);
// Not a checkout, or one without that branch: there is nothing to compare with.
if (subjects === undefined) process.exit(0);
const long = subjects.split('\n').filter((line) => line.slice(line.indexOf(' ') + 1).length > MAX_SUBJECT);
for (const line of long) console.error(`the subject is longer than ${MAX_SUBJECT} characters: ${line}`);
process.exit(long.length === 0 ? 0 : 1);

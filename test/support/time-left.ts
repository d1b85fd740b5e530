/** Skips the tests that would begin after XLSNAP_TEST_UNTIL: on a slow machine, `npm test` has to end all the same. */
import { relative } from 'node:path';
import { beforeEach, expect } from 'vitest';

/** Milliseconds since 1970. */
const until = Number(process.env['XLSNAP_TEST_UNTIL'] ?? Number.POSITIVE_INFINITY);

beforeEach((context) => {
  if (Date.now() <= until) return;
  const file = relative(process.cwd(), expect.getState().testPath ?? '');
  const reason = `no time left, which XLSNAP_TEST_MINUTES sets; npm run test:lab -- ${file} runs it`;
  console.log(`skipped: ${context.task.name}: ${reason}`);
  context.skip(reason);
});

/**
 * Runs a create of the real command line on a fake host, for tests that need a process of its own:
 * `slow-create.ts DIRECTORY`. While the guest is stopped it writes much to stderr and waits for DIRECTORY/go.
 * DIRECTORY/calls records what happens to the guest.
 */
import { appendFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { processContext } from '../../src/cli/context.ts';
import { PatientStream } from '../../src/cli/patient-stream.ts';
import { run } from '../../src/cli/run.ts';
import { FakeHost } from '../../src/testing/fake-host.ts';

const [directory = ''] = process.argv.slice(2);
const note = (text: string): void => appendFileSync(join(directory, 'calls'), `${text}\n`);
const context = processContext();
const host = new FakeHost({ directory });
host.after = (call) => {
  if (call === 'suspend' || call === 'resume') note(call);
};
host.fault = async (call) => {
  if (call !== 'packPages' || !host.suspended) return;
  host.fault = () => {};
  note('stands still');
  for (let i = 0; i < 2000; i++) context.stderr.write(`line ${i}${'.'.repeat(100)}\n`);
  note('wrote');
  while (!existsSync(join(directory, 'go')) && host.suspended) await sleep(20);
  context.stderr.write('late\n');
};
process.on('SIGCONT', () => note('continued'));
const args = ['snapshot-create', 'guest1', join(directory, 'snap.cfg'), '--quiet'];
const status = await run(args, { ...context, openHost: () => Promise.resolve(host) });
note(`exit ${status}`);
if (process.env['FLUSH'] === '1' && context.stderr instanceof PatientStream) await context.stderr.flushed();
process.exit(status);

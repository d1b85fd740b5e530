#!/usr/bin/env node
import { EXIT, errnoCode } from '../core/errors.ts';
import { processContext } from './context.ts';
import { run } from './run.ts';

let lost: unknown;
// A reader that went away (EPIPE), or a terminal that did (EIO), must not end the work.
process.stdout.on('error', (error) => {
  if (errnoCode(error) !== 'EPIPE' && errnoCode(error) !== 'EIO') lost = error;
});
process.stderr.on('error', () => {});

const exitCode = await run(process.argv.slice(2), processContext());
await Promise.all([process.stdout, process.stderr].map(flushed));
if (lost !== undefined) process.stderr.write(`error: stdout: ${String(lost)}\n`);
// Not by itself: a library's thread or a socket could hold the process.
process.exit(lost !== undefined && exitCode === EXIT.ok ? EXIT.output : exitCode);

/** Waits until what was written to a pipe is out, or nobody can read it any more. */
function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write('', () => resolve()));
}

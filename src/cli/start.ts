/** Runs the command line, and sets the exit code. */
import { EXIT, errnoCode } from '../core/errors.ts';
import { processContext } from './context.ts';
import { PatientStream } from './patient-stream.ts';
import { run } from './run.ts';

/** Runs the command line of this process, and ends the process. */
export async function start(): Promise<never> {
  let lost: unknown;
  // A reader that has exited (EPIPE) or a closed terminal (EIO) must not end the work.
  process.stdout.on('error', (error) => {
    if (errnoCode(error) !== 'EPIPE' && errnoCode(error) !== 'EIO') lost = error;
  });
  process.stderr.on('error', () => {});

  const context = processContext();
  const exitCode = await run(process.argv.slice(2), context);
  await flush(process.stdout);
  if (context.stderr instanceof PatientStream) await context.stderr.flushed();
  if (lost !== undefined) process.stderr.write(`error: stdout: ${String(lost)}\n`);
  // Explicitly, since a library's thread or a socket could keep the process alive.
  process.exit(lost !== undefined && exitCode === EXIT.ok ? EXIT.output : exitCode);
}

/** Waits until what was written to a pipe has been taken, or nobody can read it any more. */
function flush(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write('', () => resolve()));
}

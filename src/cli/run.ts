import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError, Option } from 'commander';
import { EXIT, UsageError } from '../core/errors.ts';
import type { CreateOptions } from './commands/snapshot-create.ts';
import type { RevertOptions } from './commands/snapshot-revert.ts';
import type { VerifyFileOptions } from './commands/verify.ts';
import type { CliContext } from './context.ts';
import { exitCodeTable } from './exit-codes.ts';
import { reportError } from './report-error.ts';

/** The longest time-out, a week: a timer of Node holds 24 days. */
const MAX_TIMEOUT_SECONDS = 7 * 24 * 3600;

/**
 * The command line.
 * @param args without `node` and the script
 * @returns the exit code
 */
export async function run(args: readonly string[], context: CliContext): Promise<number> {
  let exitCode: number = EXIT.ok;
  const program = makeProgram(context, (code) => {
    exitCode = code;
  });
  const json = args.includes('--json');
  try {
    await program.parseAsync(args, { from: 'user' });
    return exitCode;
  } catch (error) {
    if (!(error instanceof CommanderError)) return reportError(context, error, json);
    if (error.exitCode === 0) return EXIT.ok;
    // No command at all: commander has written the help to stderr.
    if (error.code === 'commander.help') return EXIT.usage;
    const usage = new UsageError('USAGE', error.message.replace(/^error: /, ''), {
      hint: 'xlsnap --help, or xlsnap COMMAND --help',
    });
    return reportError(context, usage, json);
  }
}

function makeProgram(context: CliContext, finish: (exitCode: number) => void): Command {
  const program = new Command('xlsnap')
    .description('Snapshots of running Xen domains, memory and disks at one instant.')
    .version(version())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
      // `run` says it, in our form.
      outputError: () => {},
      getOutHelpWidth: () => context.stdout.columns ?? 80,
      getErrHelpWidth: () => context.stderr.columns ?? 80,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .addHelpText('after', `\n${exitCodeTable()}`);

  program
    .command('snapshot-create')
    .summary('take a snapshot of a domain')
    .description(
      'Takes a snapshot of a running or paused domain: its memory into a file, its disks at the same instant. ' +
        'Without a cfgfile the memory goes to /var/lib/xen/snapshots and each writable qcow2 disk gets an internal snapshot.',
    )
    .argument('<domain>', 'name or domid', notEmpty)
    .argument('[cfgfile]', 'name, description, memory_path and disks, in the syntax of xl.cfg')
    .option('--name <name>', "name of the snapshot; the cfgfile's wins (default: the time of creation)")
    .option('--live', 'let the domain run while its memory is copied, and stop it only for the rest')
    .option(
      '--max-rounds <n>',
      'with --live: passes over the memory while the domain runs (default: 5)',
      count,
    )
    .option(
      '--target-downtime <time>',
      'with --live: stop the domain once that will take about so long, in ms or as 2s (default: as short as it gets)',
      milliseconds,
    )
    .option(
      '--max-downtime <time>',
      'with --live: give up, and let the domain go on, rather than stop it for longer',
      milliseconds,
    )
    .addOption(new Option('--disk-only').hideHelp())
    .option('--timeout <seconds>', 'how long the guest may take to suspend (default: 60)', seconds)
    .option(
      '--no-sync',
      'do not wait until the memory is on the disk: faster, and lost if the host loses power now',
    )
    .option('--dry-run', 'check everything, print the plan, touch nothing')
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      examples(
        ['xlsnap snapshot-create guest1', 'everything by default'],
        ['xlsnap snapshot-create guest1 --name before-upgrade', 'with a name'],
        ['xlsnap snapshot-create guest1 snap.cfg --dry-run', 'what would be done'],
        ['xlsnap snapshot-create 7 snap.cfg --json', 'by domid, for a script'],
      ),
    )
    .action(async (domain: string, cfgfile: string | undefined, options: CreateOptions) => {
      const { snapshotCreate } = await import('./commands/snapshot-create.ts');
      finish(await snapshotCreate(context, domain, cfgfile, options));
    });

  program
    .command('snapshot-revert')
    .summary('bring a domain back to a snapshot')
    .description(
      'Destroys the domain, puts its disks back, and restores its memory. It is then as it was at the snapshot, ' +
        'running or paused. Everything is checked before anything is destroyed.',
    )
    .argument('<domain>', 'name or domid; the domain need not run', notEmpty)
    .argument('<cfgfile>', 'the one that snapshot-create wrote beside the memory file')
    .option('--running', 'let the domain run, whatever its state at the snapshot')
    .option('--force', 'go on where the revert is risky')
    .option('--keep', 'keep the overlays that are replaced')
    .option('--timeout <seconds>', 'how long destroying may take (default: 60)', seconds)
    .option('--dry-run', 'check everything, print the plan, touch nothing')
    .option('--json', 'JSON: the result on stdout, progress and errors on stderr')
    .option('-q, --quiet', 'no progress')
    .addHelpText(
      'after',
      examples(
        ['xlsnap snapshot-revert guest1 /x/guest1.save.cfg', 'back to the snapshot'],
        ['xlsnap snapshot-revert guest1 /x/guest1.save.cfg --dry-run', 'what would be done'],
        ['xlsnap snapshot-revert guest1 /x/guest1.save.cfg --running', 'and let it run'],
      ),
    )
    .action(async (domain: string, cfgfile: string, options: RevertOptions) => {
      const { snapshotRevert } = await import('./commands/snapshot-revert.ts');
      finish(await snapshotRevert(context, domain, cfgfile, options));
    });

  program
    .command('verify')
    .summary('check a memory file')
    .description(
      "Reads a memory file, or a save file of xl's, to its end and checks it strictly as the stream's specifications " +
        'say: order, lengths, padding, reserved fields, the end. Needs no Xen. The content of pages has no checksum yet.',
    )
    .argument('<file>', 'the memory file', notEmpty)
    .option('--json', 'JSON: the result on stdout, errors with all findings on stderr')
    .addHelpText('after', examples(['xlsnap verify /x/guest1.save', 'exit code 9 when it is damaged']))
    .action(async (path: string, options: VerifyFileOptions) => {
      const { verifyFile } = await import('./commands/verify.ts');
      finish(await verifyFile(context, path, options));
    });
  return program;
}

function examples(...pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([command]) => command.length));
  return ['', 'Examples:', ...pairs.map(([command, what]) => `  ${command.padEnd(width)}  # ${what}`)].join(
    '\n',
  );
}

function seconds(text: string): number {
  const value = Number(text);
  if (!/^[0-9]+(\.[0-9]+)?$/.test(text) || value === 0 || value > MAX_TIMEOUT_SECONDS) {
    throw new InvalidArgumentError(`Expected seconds, more than 0 and at most ${MAX_TIMEOUT_SECONDS}.`);
  }
  return value;
}

/** `300`, `300ms` or `2s`. */
function milliseconds(text: string): number {
  const [, number, unit] = /^([0-9]+(?:\.[0-9]+)?)(ms|s)?$/.exec(text) ?? [];
  const value = Number(number) * (unit === 's' ? 1000 : 1);
  if (!(value <= MAX_TIMEOUT_SECONDS * 1000)) {
    throw new InvalidArgumentError('Expected milliseconds, or a time such as 300ms or 2s.');
  }
  return value;
}

function count(text: string): number {
  if (!/^[1-9][0-9]?$/.test(text)) throw new InvalidArgumentError('Expected a number from 1 to 49.');
  return Number(text);
}

function notEmpty(text: string): string {
  if (text === '') throw new InvalidArgumentError('It is empty.');
  return text;
}

/** Of package.json, which is two levels up in src/ and in dist/. */
function version(): string {
  const text = readFileSync(new URL('../../package.json', import.meta.url), 'utf8');
  return (JSON.parse(text) as { version: string }).version;
}

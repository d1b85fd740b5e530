/** The command line as a commander program. */
import type { Argument } from 'commander';
import type { CliContext } from './context.ts';
import { defineBench } from './definitions/bench.ts';
import { defineCompletion } from './definitions/completion.ts';
import type { Define } from './definitions/define.ts';
import { defineDoctor } from './definitions/doctor.ts';
import { defineInspect } from './definitions/inspect.ts';
import { defineRecover } from './definitions/recover.ts';
import { defineSnapshotCreate } from './definitions/snapshot-create.ts';
import { defineSnapshotDelete } from './definitions/snapshot-delete.ts';
import { defineSnapshotList } from './definitions/snapshot-list.ts';
import { defineSnapshotRevert } from './definitions/snapshot-revert.ts';
import { defineTrack } from './definitions/track.ts';
import { defineVerify } from './definitions/verify.ts';
import { defineInstallXlWrapper, defineRemoveXlWrapper } from './definitions/xl-wrapper.ts';
import { DocumentedCommand } from './documented-command.ts';
import { exitCodeTable } from './exit-codes.ts';
import { version } from './version.ts';

/** All commands, in the order of the help. */
const DEFINITIONS: readonly Define[] = [
  defineSnapshotCreate,
  defineSnapshotList,
  defineSnapshotRevert,
  defineSnapshotDelete,
  defineTrack,
  defineRecover,
  defineInspect,
  defineVerify,
  defineBench,
  defineDoctor,
  defineInstallXlWrapper,
  defineRemoveXlWrapper,
  defineCompletion,
];

/**
 * Builds the command line with all its commands: the single source of the help, the manual page and the completions.
 * @param finish receives the exit code of the command that ran
 */
export function makeProgram(context: CliContext, finish: (exitCode: number) => void): DocumentedCommand {
  const program = new DocumentedCommand('xlsnap')
    .description('Snapshots of running Xen domains, memory and disks at one instant.')
    .version(version())
    .exitOverride()
    .configureOutput({
      writeOut: (text) => context.stdout.write(text),
      writeErr: (text) => context.stderr.write(text),
      // `run` prints errors, in our form.
      outputError: () => {},
      getOutHelpWidth: () => context.stdout.columns ?? 80,
      getErrHelpWidth: () => context.stderr.columns ?? 80,
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .configureHelp({
      minWidthToWrap: 20,
      // Every command has options; saying so would take space from the summaries.
      subcommandTerm: (command) =>
        [command.name(), ...command.registeredArguments.map(argumentTerm)].join(' '),
    })
    .addHelpText('after', `\n${exitCodeTable()}`);
  for (const define of DEFINITIONS) define(program, context, finish);
  return program;
}

function argumentTerm(argument: Argument): string {
  const name = `${argument.name()}${argument.variadic ? '...' : ''}`;
  return argument.required ? `<${name}>` : `[${name}]`;
}

/**
 * Makes the manual pages: xlsnap(1) from the definitions of the commands, xlsnap.cfg(5) from docs/cfgfile.md.
 */
import type { Option } from 'commander';
import { DocumentedCommand } from '../../src/cli/documented-command.ts';
import { EXIT_MEANINGS } from '../../src/cli/exit-codes.ts';
import { EXIT } from '../../src/core/errors.ts';
import { bold, escaped, italic, Roff } from './roff.ts';

/** Version and date of a page. */
interface Edition {
  readonly version: string;
  /** YYYY-MM-DD */
  readonly date: string;
}

function page(title: string, section: number, { version, date }: Edition, manual: string): Roff {
  return new Roff(title, section, { date, source: `xlsnap ${version}`, manual });
}

/**
 * Makes xlsnap(1).
 * @param prose Markdown for the sections that have no definition
 */
export function commandPage(program: DocumentedCommand, prose: string, edition: Edition): string {
  const name = program.name();
  const commands = documented(program);
  const roff = page(name, 1, edition, 'User Commands');
  roff
    .section('Name')
    .paragraph(`${name} \\- snapshots of running Xen domains, memory and disks at one instant`);
  roff.section('Synopsis');
  for (const command of commands) roff.paragraph(synopsis(name, command));
  roff.paragraph(`${bold(`${name} --help`)} | ${bold('--version')}`);
  const [description = '', ...rest] = prose.split(/^(?=## )/m);
  roff.section('Description').markdown(description);
  roff.section('Commands');
  for (const command of commands) addCommand(roff, name, command);
  roff.section('Exit status');
  for (const [key, meaning] of Object.entries(EXIT_MEANINGS)) {
    roff.item(bold(String(EXIT[key as keyof typeof EXIT])), escaped(meaning));
  }
  return roff.markdown(rest.join('')).toString();
}

/**
 * Makes xlsnap.cfg(5).
 * @param document Markdown with a title, an introduction, and sections
 */
export function configPage(document: string, edition: Edition): string {
  const [introduction = '', ...rest] = document.replace(/^# .*\n/, '').split(/^(?=## )/m);
  return page('xlsnap.cfg', 5, edition, 'File Formats')
    .section('Name')
    .paragraph('xlsnap.cfg \\- the cfgfile that describes a snapshot of xlsnap')
    .section('Description')
    .markdown(introduction)
    .markdown(rest.join(''))
    .section('See also')
    .paragraph(`${bold('xlsnap')}(1), ${bold('xl.cfg')}(5)`)
    .toString();
}

/** Returns what `--help` lists, except help itself. */
function documented(program: DocumentedCommand): readonly DocumentedCommand[] {
  const isDocumented = (command: unknown): command is DocumentedCommand =>
    command instanceof DocumentedCommand;
  return program
    .createHelp()
    .visibleCommands(program)
    .filter(isDocumented)
    .filter((command) => command.name() !== 'help');
}

function synopsis(name: string, command: DocumentedCommand): string {
  const words = command.registeredArguments.map((argument) => {
    const text = `${italic(argument.name())}${argument.variadic ? ' ...' : ''}`;
    return argument.required ? text : `[${text}]`;
  });
  const options = visible(command).length > 0 ? [`[${italic('options')}]`] : [];
  return [bold(`${name} ${command.name()}`), ...words, ...options].join(' ');
}

/** Returns the options, except `--help`, which each command has. */
function visible(command: DocumentedCommand): readonly Option[] {
  return command
    .createHelp()
    .visibleOptions(command)
    .filter(({ long }) => long !== '--help');
}

function addCommand(roff: Roff, name: string, command: DocumentedCommand): void {
  roff.subsection(`${name} ${command.name()}`);
  roff.paragraph(escaped(command.description()));
  for (const argument of command.registeredArguments) {
    const choices = argument.argChoices === undefined ? '' : `: ${argument.argChoices.join(' or ')}`;
    roff.item(italic(argument.name()), escaped(`${argument.description}${choices}`));
  }
  for (const option of visible(command)) roff.item(flags(option), escaped(option.description));
  if (command.examples.length === 0) return;
  roff.paragraph('Examples:');
  for (const [line, what] of command.examples) roff.item(bold(line), escaped(what));
}

/** Formats `-q, --quiet`, or `--name <name>` with its value in italics. */
function flags(option: Option): string {
  const [, words = '', value] = /^(.*?)(?: [<[](.*)[\]>])?$/.exec(option.flags) ?? [];
  const names = words.split(', ').map(bold).join(', ');
  return value === undefined ? names : `${names} ${italic(value)}`;
}

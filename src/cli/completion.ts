/** Completions for shells, made from the definitions of the commands. */
import type { Argument, Command, Option } from 'commander';
import { DEFAULT_PATHS } from '../bench/paths.ts';
import { shellQuote } from '../core/shell-quote.ts';
import { riskNames } from '../snapshot/risks.ts';

/** `snapshot`: the name of one of the domain's snapshots, or a file. */
type Kind = 'domain' | 'file' | 'directory' | 'snapshot';

/** What an argument or an option's value is, by its name. Names that are not here have no completion. */
const KINDS: Readonly<Record<string, Kind>> = {
  domain: 'domain',
  file: 'file',
  cfgfile: 'file',
  snapshot: 'snapshot',
  snapshots: 'snapshot',
  files: 'file',
  other: 'file',
  path: 'file',
  dir: 'directory',
};

/** Values that are lists of words with commas between them, by name. */
const LISTS: Readonly<Record<string, readonly string[]>> = {
  risks: riskNames(),
  list: [...DEFAULT_PATHS.split(','), 'all'],
};

/** How a value is completed: one or more of some words, or by kind; undefined when only the user knows. */
type Completion =
  | { readonly choices: readonly string[] }
  | { readonly list: readonly string[] }
  | { readonly kind: Kind };

function completionOf(name: string, choices: readonly string[] | undefined): Completion | undefined {
  if (choices !== undefined) return { choices };
  const list = LISTS[name];
  if (list !== undefined) return { list };
  const kind = KINDS[name];
  return kind === undefined ? undefined : { kind };
}

function ofArgument(argument: Argument): Completion | undefined {
  return completionOf(argument.name(), argument.argChoices);
}

function ofValue(option: Option): Completion | undefined {
  const [, name = ''] = /[<[]([^\]>.]+)/.exec(option.flags) ?? [];
  return completionOf(name, option.argChoices);
}

/** Options that the help shows, with that of the help itself. */
function visibleOptions(command: Command): readonly Option[] {
  return command.createHelp().visibleOptions(command);
}

function flagsOf(option: Option): readonly string[] {
  return [option.short, option.long].filter((flag) => flag !== undefined);
}

/** Without dom0, which cannot be snapshotted. */
const DOMAINS = `xl list 2>/dev/null | awk 'NR > 1 && $1 != "Domain-0" { print $1 }'`;

/** Lists a domain's snapshots, one name a line. */
function namesOf(name: string, domain: string): string {
  return `${name} snapshot-list ${domain} --names 2>/dev/null`;
}

/** A script for bash 4.4 or later; it needs nothing of the package bash-completion. */
export function bashCompletion(program: Command): string {
  const name = program.name();
  const commands = program.createHelp().visibleCommands(program);
  const lines = [
    `# bash completion for ${name} ${program.version()}. Made by: ${name} completion bash`,
    `_${name}_words() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$2"); }`,
    // The part that is complete stays before each word; no space follows, since there may be another word.
    `_${name}_list() {`,
    '  local before=',
    `  if [[ $2 == *,* ]]; then before=\${2%,*},; fi`,
    '  compopt -o nospace 2>/dev/null',
    `  mapfile -t COMPREPLY < <(compgen -P "$before" -W "$1" -- "\${2##*,}")`,
    '}',
    `_${name}_domains() { _${name}_words "$(${DOMAINS})" "$1"; }`,
    `_${name}_files() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$1"); }`,
    `_${name}_directories() { compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$1"); }`,
    `_${name}_snapshots() {`,
    `  _${name}_files "$1"`,
    '  local one',
    '  while IFS= read -r one; do',
    `    if [[ $one == "$1"* ]]; then COMPREPLY+=("$one"); fi`,
    `  done < <(${namesOf(name, '"$domain"')})`,
    '}',
    `_${name}() {`,
    `  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD - 1]} command= options= takes= domain= position=0 skip= i`,
    '  COMPREPLY=()',
    '  if ((COMP_CWORD == 1)); then',
    `    _${name}_words ${quotedWords([...commands.map((command) => command.name()), ...visibleOptions(program).flatMap(flagsOf)])} "$cur"`,
    '    return',
    '  fi',
    '  command=$' + '{COMP_WORDS[1]}',
    '  case $command in',
    `  help) if ((COMP_CWORD == 2)); then _${name}_words ${quotedWords(commands.map((command) => command.name()))} "$cur"; fi; return ;;`,
    ...commands.flatMap((command) => bashOptions(name, command)),
    '  *) return ;;',
    '  esac',
    `  if [[ $cur == -* ]]; then _${name}_words "$options" "$cur"; return; fi`,
    '  for ((i = 2; i < COMP_CWORD; i++)); do',
    '    if [[ $skip ]]; then skip=; continue; fi',
    `    case \${COMP_WORDS[i]} in`,
    '    -*) if [[ " $takes " == *" $' + '{COMP_WORDS[i]} "* ]]; then skip=1; fi ;;',
    '    *) if ((position == 0)); then domain=$' + '{COMP_WORDS[i]}; fi; ((position += 1)) ;;',
    '    esac',
    '  done',
    '  case $command:$position in',
    ...commands.flatMap((command) =>
      command.registeredArguments.flatMap((argument, at) => {
        const completion = ofArgument(argument);
        const which = argument.variadic ? `${command.name()}:*` : `${command.name()}:${at}`;
        return completion === undefined ? [] : [`  ${which}) ${bashCall(name, completion)} ;;`];
      }),
    ),
    '  esac',
    '}',
    `complete -F _${name} ${name}`,
  ];
  return `${lines.join('\n')}\n`;
}

/** Lists one command's options, which of them take a value, and how that is completed. */
function bashOptions(name: string, command: Command): readonly string[] {
  const options = visibleOptions(command);
  const taking = options.filter((option) => option.required || option.optional);
  const values = taking.map((option) => {
    const completion = ofValue(option);
    const call = completion === undefined ? ':' : bashCall(name, completion);
    return `    ${flagsOf(option).join('|')}) ${call}; return ;;`;
  });
  return [
    `  ${command.name()})`,
    `    options=${quotedWords(options.flatMap(flagsOf))} takes=${quotedWords(taking.flatMap(flagsOf))}`,
    ...(values.length === 0 ? [] : ['    case $prev in', ...values, '    esac']),
    '    ;;',
  ];
}

function bashCall(name: string, completion: Completion): string {
  if ('choices' in completion) return `_${name}_words ${quotedWords(completion.choices)} "$cur"`;
  if ('list' in completion) return `_${name}_list ${quotedWords(completion.list)} "$cur"`;
  const functions = {
    domain: 'domains',
    file: 'files',
    directory: 'directories',
    snapshot: 'snapshots',
  } as const;
  return `_${name}_${functions[completion.kind]} "$cur"`;
}

function quotedWords(words: readonly string[]): string {
  return shellQuote(words.join(' '));
}

/** A script for zsh's completion system; it goes into a directory of `fpath`, as `_xlsnap`. */
export function zshCompletion(program: Command): string {
  const name = program.name();
  const commands = program.createHelp().visibleCommands(program);
  const lines = [
    `#compdef ${name}`,
    `# zsh completion for ${name} ${program.version()}. Made by: ${name} completion zsh`,
    `_${name}_domains() {`,
    '  local -a domains',
    `  domains=(\${(f)"$(${DOMAINS})"})`,
    `  compadd -a domains`,
    '}',
    `_${name}_snapshots() {`,
    '  local -a operands names',
    // The command comes first, then the domain.
    '  operands=($' + '{words:#-*})',
    `  names=(\${(f)"$(${namesOf(name, '"$operands[2]"')})"})`,
    '  compadd -a names',
    '  _files',
    '}',
    `_${name}() {`,
    '  local -a commands',
    '  commands=(',
    ...commands.map((command) => `    ${shellQuote(`${command.name()}:${command.summary()}`)}`),
    '  )',
    '  if ((CURRENT == 2)) && [[ $words[2] != -* ]]; then',
    "    _describe 'command' commands",
    '    return',
    '  fi',
    '  case $words[2] in',
    ...commands.flatMap((command) => [
      `  ${command.name()})`,
      '    shift words; ((CURRENT -= 1))',
      '    _arguments -S \\',
      ...zshSpecs(name, command).map((spec, at, all) => `      ${spec}${at < all.length - 1 ? ' \\' : ''}`),
      '    ;;',
    ]),
    '  *)',
    '    _arguments \\',
    ...visibleOptions(program).map(
      (option, at, all) => `      ${zshOption(name, option)}${at < all.length - 1 ? ' \\' : ''}`,
    ),
    '    ;;',
    '  esac',
    '}',
    // When it is autoloaded it is the function's body; when it is sourced it only announces the function.
    `if [[ $funcstack[1] == _${name} ]]; then _${name} "$@"; else compdef _${name} ${name}; fi`,
  ];
  return `${lines.join('\n')}\n`;
}

function zshSpecs(name: string, command: Command): readonly string[] {
  return [
    ...visibleOptions(command).map((option) => zshOption(name, option)),
    ...command.registeredArguments.map((argument, at) => {
      const position = argument.variadic ? '*' : String(at + 1);
      const optional = argument.required || argument.variadic ? ':' : '::';
      return shellQuote(
        `${position}${optional}${zshText(argument.name())}:${zshAction(name, ofArgument(argument))}`,
      );
    }),
  ];
}

/** `'(-q --quiet)'{-q,--quiet}'[no progress]'` and the like. */
function zshOption(name: string, option: Option): string {
  const flags = flagsOf(option);
  const [, value] = /[<[]([^\]>]+)/.exec(option.flags) ?? [];
  const argument = value === undefined ? '' : `:${zshText(value)}:${zshAction(name, ofValue(option))}`;
  const rest = shellQuote(`[${zshText(option.description)}]${argument}`);
  return flags.length === 1 ? `${flags[0]}${rest}` : `'(${flags.join(' ')})'{${flags.join(',')}}${rest}`;
}

function zshAction(name: string, completion: Completion | undefined): string {
  if (completion === undefined) return ' ';
  if ('choices' in completion) return `(${completion.choices.join(' ')})`;
  if ('list' in completion) return `_sequence compadd - ${completion.list.join(' ')}`;
  const actions = {
    domain: `_${name}_domains`,
    file: '_files',
    directory: '_files -/',
    snapshot: `_${name}_snapshots`,
  } as const;
  return actions[completion.kind];
}

/** Text in a specification of _arguments, where brackets and colons end something. */
function zshText(text: string): string {
  return text.replaceAll(/[[\]:\\]/g, '\\$&');
}

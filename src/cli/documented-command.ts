import { Command } from 'commander';

/** A command line that one may type, and what it does. */
export type Example = readonly [command: string, what: string];

/** A terminal's width. */
const MAX_LINE = 80;

/** A command of commander's with what the help, the manual page and the completions need besides. */
export class DocumentedCommand extends Command {
  readonly #examples: Example[] = [];

  override createCommand(name?: string): DocumentedCommand {
    return new DocumentedCommand(name);
  }

  get examples(): readonly Example[] {
    return this.#examples;
  }

  /** Puts examples at the end of the help. */
  addExamples(...examples: readonly Example[]): this {
    this.#examples.push(...examples);
    const width = Math.max(...examples.map(([command]) => command.length));
    const beside = examples.map(([command, what]) => `  ${command.padEnd(width)}  # ${what}`);
    const above = examples.flatMap(([command, what]) => [`  # ${what}`, `  ${command}`]);
    const lines = beside.every((line) => line.length <= MAX_LINE) ? beside : above;
    return this.addHelpText('after', ['', 'Examples:', ...lines].join('\n'));
  }
}

/** A command with examples, from which help, manual pages and completions are made. */
import { Command } from 'commander';

/** An example command line, and what it does. */
export type Example = readonly [command: string, what: string];

/** A terminal's width. */
const MAX_LINE = 80;

/** A commander command that also keeps its examples. */
export class DocumentedCommand extends Command {
  readonly #examples: Example[] = [];

  override createCommand(name?: string): DocumentedCommand {
    return new DocumentedCommand(name);
  }

  get examples(): readonly Example[] {
    return this.#examples;
  }

  /** Adds examples to the end of the help. */
  addExamples(...examples: readonly Example[]): this {
    this.#examples.push(...examples);
    const width = Math.max(...examples.map(([command]) => command.length));
    const beside = examples.map(([command, what]) => `  ${command.padEnd(width)}  # ${what}`);
    const above = examples.flatMap(([command, what]) => [`  # ${what}`, `  ${command}`]);
    const lines = beside.every((line) => line.length <= MAX_LINE) ? beside : above;
    return this.addHelpText('after', ['', 'Examples:', ...lines].join('\n'));
  }
}

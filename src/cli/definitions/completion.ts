/** Describes `xlsnap completion` to commander. */
import { Argument } from 'commander';
import type { Define } from './define.ts';

export const defineCompletion: Define = (program, context, finish) => {
  program
    .command('completion')
    .summary('print completions for a shell')
    .description(
      'Prints a script that makes bash or zsh complete the commands, options, domains and files of xlsnap.',
    )
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash', 'zsh']))
    .addExamples(
      ['xlsnap completion bash > /etc/bash_completion.d/xlsnap', 'for all users'],
      ['source <(xlsnap completion bash)', 'in this shell'],
      ['xlsnap completion zsh > /usr/local/share/zsh/site-functions/_xlsnap', 'for zsh'],
    )
    .action(async (shell: 'bash' | 'zsh') => {
      const { bashCompletion, zshCompletion } = await import('../completion.ts');
      context.stdout.write(shell === 'bash' ? bashCompletion(program) : zshCompletion(program));
      finish(0);
    });
};

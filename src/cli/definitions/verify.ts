import { notEmpty } from '../arguments.ts';
import type { VerifyFileOptions } from '../commands/verify.ts';
import type { Define } from './define.ts';

export const defineVerify: Define = (program, context, finish) => {
  program
    .command('verify')
    .summary('check a memory file')
    .description(
      "Reads a memory file, or a save file of xl's, to its end and checks it strictly as the stream's specifications " +
        'say: order, lengths, padding, reserved fields, the end. If the manifest that snapshot-create wrote lies beside it, each ' +
        'octet is compared with its checksums. Needs no Xen.',
    )
    .argument('<file>', 'the memory file', notEmpty)
    .option('--json', 'JSON: the result on stdout, errors with all findings on stderr')
    .addExamples(['xlsnap verify /x/guest1.save', 'exit code 9 when it is damaged'])
    .action(async (path: string, options: VerifyFileOptions) => {
      const { verifyFile } = await import('../commands/verify.ts');
      finish(await verifyFile(context, path, options));
    });
};

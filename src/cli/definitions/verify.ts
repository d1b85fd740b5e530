/** Describes `xlsnap verify` to commander. */
import { notEmpty } from '../arguments.ts';
import type { VerifyFileOptions } from '../commands/verify.ts';
import type { Define } from './define.ts';

export const defineVerify: Define = (program, context, finish) => {
  program
    .command('verify')
    .summary('check a memory file')
    .description(
      "Reads a memory file, or one of xl's save files, to its end and checks it against the stream's specifications: " +
        'order, lengths, padding, reserved fields, the end. If the manifest that snapshot-create wrote is beside it, ' +
        'the whole file is also checked against its checksums. Needs no Xen.',
    )
    .argument('<file>', 'the memory file', notEmpty)
    .option('--json', 'JSON: the result on stdout, errors with all findings on stderr')
    .addExamples(['xlsnap verify /x/guest1.save', 'exits with 9 if the file is damaged'])
    .action(async (path: string, options: VerifyFileOptions) => {
      const { verifyFile } = await import('../commands/verify.ts');
      finish(await verifyFile(context, path, options));
    });
};

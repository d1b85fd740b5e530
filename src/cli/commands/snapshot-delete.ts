import type { SnapshotConfig } from '../../config/config.ts';
import { readConfigFile } from '../../config/read.ts';
import type { DeleteRequest } from '../../snapshot/delete/types.ts';
import type { CliContext } from '../context.ts';
import { deletePlanText, deleteResultText } from '../delete-text.ts';
import { type CommonOptions, runSession } from '../session.ts';
import { isSnapshotName } from '../snapshot-name.ts';
import { jsonLine } from '../text.ts';

export interface DeleteOptions extends CommonOptions {
  readonly keep?: number;
  readonly prefix?: string;
  readonly merge?: boolean;
  readonly dir?: readonly string[];
  readonly dryRun?: boolean;
}

/** Runs `xlsnap snapshot-delete`; returns the exit code. */
export function snapshotDelete(
  context: CliContext,
  domain: string,
  words: readonly string[],
  options: DeleteOptions,
): Promise<number> {
  const { keep, prefix, merge, dir } = options;
  return runSession(
    context,
    options,
    async (): Promise<DeleteRequest> => ({
      domain,
      snapshots: await Promise.all(words.map(nameOrConfig)),
      keep,
      prefix,
      merge,
      directories: dir,
    }),
    async ({ host, calls, options: limits, reporter }, request) => {
      if (options.dryRun === true) {
        const plan = await calls.planDelete(host, request, limits);
        return options.json === true ? jsonLine('delete_plan', plan) : deletePlanText(plan);
      }
      const result = await calls.deleteSnapshots(host, request, limits);
      for (const warning of result.warnings) reporter.log('warning', warning);
      return options.json === true ? jsonLine('delete_result', result) : deleteResultText(result);
    },
  );
}

async function nameOrConfig(word: string): Promise<string | SnapshotConfig> {
  return (await isSnapshotName(word)) ? word : await readConfigFile(word);
}

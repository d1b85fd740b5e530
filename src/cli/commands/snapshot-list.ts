import type { ListRequest } from '../../snapshot/list/list.ts';
import type { CliContext } from '../context.ts';
import { snapshotListText } from '../list-text.ts';
import { reportError } from '../report-error.ts';
import { catchSignals } from '../signals.ts';
import { columnsOf, jsonLine, printable } from '../text.ts';

export interface ListOptions {
  readonly dir?: readonly string[];
  readonly json?: boolean;
  readonly untestedXen?: boolean;
  /** Only names, one a line. */
  readonly names?: boolean;
}

/** Runs `xlsnap snapshot-list`; needs Xen only where the domain is given by its domid. Returns the exit code. */
export async function snapshotList(
  context: CliContext,
  domain: string | undefined,
  options: ListOptions,
): Promise<number> {
  const json = options.json === true;
  using interruption = catchSignals(context, () => {});
  const { signal } = interruption;
  try {
    const calls = await context.loadCalls();
    const request: ListRequest = {
      domain,
      keys: domain === undefined ? undefined : await keysOf(context, domain, options),
      directories: options.dir,
    };
    if (options.names === true) {
      const names = await calls.snapshotNames(await context.openImages(signal), request);
      context.stdout.write(names.map((name) => `${printable(name)}\n`).join(''));
      return 0;
    }
    const list = await calls.listSnapshots(await context.openImages(signal), request, { signal });
    const text = json
      ? jsonLine('snapshot_list', list)
      : printable(snapshotListText(list, columnsOf(context.stdout)));
    context.stdout.write(`${text}\n`);
    return 0;
  } catch (error) {
    return interruption.exitCodeOf(error, reportError(context, error, json));
  }
}

/** Name and uuid of the domain that a domid stands for, if it runs. Without Xen a number is a name. */
async function keysOf(
  context: CliContext,
  word: string,
  { untestedXen = false }: ListOptions,
): Promise<readonly string[]> {
  if (!/^[0-9]+$/.test(word)) return [];
  try {
    await using host = await context.openHost({ untestedXen });
    const domid = await host.toolstack.findDomain(word);
    const state = domid === undefined ? undefined : await host.hypervisor.domainState(domid);
    return state === undefined ? [] : [state.name, state.uuid];
  } catch {
    return [];
  }
}

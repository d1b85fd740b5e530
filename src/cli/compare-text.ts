/** The text that `xlsnap inspect FILE OTHER` prints. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { ChangeCounts, Comparison, RegionChange } from '../memfile/compare.ts';
import type { Inspection } from '../memfile/inspect.ts';
import { timeText } from './inspect-text.ts';
import { formatPages, formatShare, formatSize, indentedTable } from './text.ts';

/** Characters of the bars. */
const BAR = 10;

/**
 * What `inspect A B` prints.
 * @param columns of the terminal; `undefined` if there is none
 */
export function comparisonText(
  { a, b, total, regions }: Comparison,
  picture: string | undefined,
  columns: number | undefined,
): string {
  const different = a.domain?.uuid !== b.domain?.uuid;
  return [
    ...sideLines('A', a),
    ...sideLines('B', b),
    ...(different ? ['  They belong to different domains.'] : []),
    '',
    totalLine(total),
    ...regionLines(regions, columns),
    ...(picture === undefined ? [] : [`Picture: ${picture}`]),
  ].join('\n');
}

function regionLines(regions: readonly RegionChange[], columns: number | undefined): readonly string[] {
  // Two snapshots of one guest mostly have the same pages.
  const alone = regions.some(({ onlyA, onlyB }) => onlyA + onlyB > 0);
  const titles = ['guest address', 'changed', 'of', ''];
  return indentedTable(
    [
      alone ? [...titles, 'only A', 'only B'] : titles,
      ...regions.map((region) => {
        const cells = [
          `${address(region.firstPfn)} - ${address(region.endPfn)}`,
          formatPages(region.changed),
          formatPages(region.same + region.changed),
          bar(region),
        ];
        return alone ? [...cells, formatPages(region.onlyA), formatPages(region.onlyB)] : cells;
      }),
    ],
    columns,
  );
}

function sideLines(side: string, { path, manifest, domain, bytes, allocatedBytes }: Inspection): string[] {
  const facts = [
    ...(manifest === undefined ? [] : [`"${manifest.name}"`, timeText(manifest.created)]),
    ...(domain?.name === undefined ? [] : [domain.name]),
    `${formatSize(bytes)}, ${formatSize(allocatedBytes)} on disk`,
  ];
  return [`${side}  ${path}`, `   ${facts.join(', ')}`];
}

function totalLine({ same, changed, onlyA, onlyB }: ChangeCounts): string {
  const rest =
    onlyA + onlyB === 0 ? '' : `; ${formatPages(onlyA)} only in A, ${formatPages(onlyB)} only in B`;
  return `Memory: ${formatPages(changed)} of ${formatPages(same + changed)} changed (${formatShare(changed, same + changed)})${rest}`;
}

/** Draws the share that changed; any change shows. */
function bar({ same, changed }: RegionChange): string {
  const filled = changed === 0 ? 0 : Math.max(1, Math.round((BAR * changed) / (same + changed)));
  return `${'#'.repeat(filled)}${'.'.repeat(BAR - filled)}`;
}

/** Regions end at whole MiB, those above 1 GiB at whole GiB. */
function address(pfn: number): string {
  const mib = (pfn * PAGE_SIZE) / 2 ** 20;
  return mib >= 1024 ? `${mib / 1024} GiB` : `${mib} MiB`;
}

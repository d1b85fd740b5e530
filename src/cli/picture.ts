/** Draws changed memory as an SVG, for `xlsnap inspect A B --picture`. */
import type { Comparison, RegionChange } from '../memfile/compare.ts';
import { formatPages, formatShare } from './text.ts';

const COLUMNS = 64;
/** Lengths in pixels. */
const CELL = 10;
const GAP = 1;
const LEFT = 84;
const TOP = 74;
const WIDTH = LEFT + COLUMNS * CELL + 20;
/** Gap between rows that are not adjacent. */
const BREAK = 8;
const LEGEND = 64;
/** Every LABELLED-th row shows its address. */
const LABELLED = 4;

/** Classes of cells, with their colours on light and on dark ground; the first that fits is taken. */
const CLASSES: readonly {
  readonly name: string;
  readonly text: string;
  readonly light: string;
  readonly dark: string;
  readonly fits: (cell: RegionChange) => boolean;
}[] = [
  {
    name: 'a',
    text: 'mostly only in A',
    light: '#7b5ea7',
    dark: '#a78bd6',
    fits: (cell) => cell.onlyA > cell.same + cell.changed + cell.onlyB,
  },
  {
    name: 'b',
    text: 'mostly only in B',
    light: '#2a8c82',
    dark: '#4fc2b4',
    fits: (cell) => cell.onlyB > cell.same + cell.changed + cell.onlyA,
  },
  { name: 's0', text: 'unchanged', light: '#e4e7eb', dark: '#30363d', fits: (cell) => share(cell) === 0 },
  { name: 's1', text: 'up to 5 %', light: '#fbd6a4', dark: '#5c4326', fits: (cell) => share(cell) <= 0.05 },
  { name: 's2', text: 'up to 25 %', light: '#f5a35b', dark: '#9a6426', fits: (cell) => share(cell) <= 0.25 },
  { name: 's3', text: 'up to 75 %', light: '#dd6a2c', dark: '#d98a35', fits: (cell) => share(cell) <= 0.75 },
  { name: 's4', text: 'more', light: '#a53a0c', dark: '#ffc872', fits: () => true },
];

/** Share of a cell's pages that are not the same in both files. */
function share({ same, changed, onlyA, onlyB }: RegionChange): number {
  const other = changed + onlyA + onlyB;
  return other / (same + other);
}

/**
 * Draws where the guest's memory has changed, as an SVG for light and dark backgrounds: cells of `cellPages` pages, 64 in a row, by
 * ascending address; rows without pages are left out.
 */
export function changePicture({ a, b, cells, cellPages, total }: Comparison): string {
  const perRow = COLUMNS * cellPages;
  const rows = new Map<number, RegionChange[]>();
  for (const cell of cells) {
    const row = Math.floor(cell.firstPfn / perRow);
    const list = rows.get(row);
    if (list === undefined) rows.set(row, [cell]);
    else list.push(cell);
  }
  const paths = new Map<string, string[]>(CLASSES.map(({ name }) => [name, []]));
  const labels: string[] = [];
  let y = TOP;
  let last = -1;
  let sinceLabel = 0;
  for (const [row, inRow] of rows) {
    const follows = row === last + 1;
    if (!follows && last >= 0) y += BREAK;
    sinceLabel = follows && last >= 0 ? sinceLabel + 1 : 0;
    if (sinceLabel % LABELLED === 0) {
      labels.push(text(LEFT - 8, y + CELL - 1, address(row * perRow), 'end'));
    }
    for (const cell of inRow) {
      const x = LEFT + ((cell.firstPfn % perRow) / cellPages) * CELL;
      const size = CELL - GAP;
      const name = CLASSES.find(({ fits }) => fits(cell))?.name ?? '';
      paths.get(name)?.push(`M${x} ${y}h${size}v${size}h-${size}z`);
    }
    y += CELL;
    last = row;
  }
  const height = y + LEGEND;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img">`,
    `<title>Changed memory: ${xmlText(title(a))} and ${xmlText(title(b))}</title>`,
    `<style>${style()}</style>`,
    `<rect class="ground" width="${WIDTH}" height="${height}"/>`,
    text(20, 24, `A  ${shorten(title(a))}`),
    text(20, 40, `B  ${shorten(title(b))}`),
    text(20, 60, summary(total, cellPages)),
    ...labels,
    ...[...paths].flatMap(([name, pieces]) =>
      pieces.length === 0 ? [] : [`<path class="${name}" d="${pieces.join('')}"/>`],
    ),
    ...legend(y + 18),
    '</svg>',
    '',
  ].join('\n');
}

function title({ path, manifest }: Comparison['a']): string {
  return manifest === undefined ? path : `"${manifest.name}"  ${path}`;
}

/** Shortens a path at its start, since the end says more. */
function shorten(name: string): string {
  return name.length <= 100 ? name : `…${name.slice(-99)}`;
}

function summary({ same, changed, onlyA, onlyB }: Comparison['total'], cellPages: number): string {
  const both = same + changed;
  const alone =
    onlyA + onlyB === 0 ? '' : `, ${formatPages(onlyA)} only in A, ${formatPages(onlyB)} only in B`;
  return `${formatPages(changed)} of ${formatPages(both)} changed (${formatShare(changed, both)})${alone}; each cell is ${formatPages(cellPages)}`;
}

function address(pfn: number): string {
  return formatPages(pfn);
}

/** Two lines of coloured squares with their meaning. */
function legend(top: number): string[] {
  const shares = CLASSES.filter(({ name }) => name.startsWith('s'));
  const alone = CLASSES.filter(({ name }) => !name.startsWith('s'));
  const line = (classes: typeof CLASSES, y: number, step: number): string[] =>
    classes.flatMap(({ name, text: words }, i) => {
      const x = LEFT + i * step;
      return [
        `<rect class="${name}" x="${x}" y="${y}" width="${CELL}" height="${CELL}"/>`,
        text(x + CELL + 6, y + CELL - 1, words),
      ];
    });
  return [
    text(LEFT - 8, top + CELL - 1, 'changed', 'end'),
    ...line(shares, top, 120),
    ...line(alone, top + 20, 160),
  ];
}

function text(x: number, y: number, words: string, anchor: 'start' | 'end' = 'start'): string {
  return `<text x="${x}" y="${y}"${anchor === 'end' ? ' text-anchor="end"' : ''} xml:space="preserve">${xmlText(words)}</text>`;
}

function style(): string {
  const colours = (which: 'light' | 'dark'): string =>
    CLASSES.map((kind) => `.${kind.name}{fill:${kind[which]}}`).join('');
  return [
    'text{font:11px system-ui,sans-serif;fill:#24292f}.ground{fill:#fff}',
    colours('light'),
    '@media(prefers-color-scheme:dark){text{fill:#d0d7de}.ground{fill:#0d1117}',
    colours('dark'),
    '}',
  ].join('');
}

/** Escapes text for XML, and removes what XML must not contain: names come from other programs. */
function xmlText(words: string): string {
  return words
    .replaceAll(/[^\P{Cc}\n\t]/gu, '?')
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;');
}

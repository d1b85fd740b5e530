/** Draws the plots of a bench's report, as SVG for a page of HTML. */
import { escapeMarkup } from './markup.ts';
import type { Summary } from './statistics.ts';

/** Where the parts of a plot are, in pixels at full size. Colours are classes, and come from the page's style sheet. */
interface Layout {
  /** The style sheet shows one of the two, by the width of the window. */
  readonly name: 'wide' | 'narrow';
  readonly width: number;
  readonly rowHeight: number;
  readonly plotLeft: number;
  readonly plotWidth: number;
  /** Middle of what is drawn in a row, from its top. */
  readonly middle: number;
  /** Base line of its texts, from its top. */
  readonly textY: number;
  readonly labelX: number;
  readonly valueX: number;
  readonly ticks: number;
}

/** Texts beside what is drawn. */
const WIDE: Layout = {
  name: 'wide',
  width: 760,
  rowHeight: 34,
  plotLeft: 188,
  plotWidth: 428,
  middle: 17,
  textY: 21,
  labelX: 180,
  valueX: 632,
  ticks: 6,
};
/** Texts above it, for windows as narrow as a phone's. */
const NARROW: Layout = {
  name: 'narrow',
  width: 340,
  rowHeight: 52,
  plotLeft: 4,
  plotWidth: 316,
  middle: 34,
  textY: 16,
  labelX: 4,
  valueX: 336,
  ticks: 3,
};
const AXIS_HEIGHT = 26;
/** Space for labels beyond the end of a bar, as a factor of the axis. */
const HEADROOM = 1.02;

/** One row of dots, its quartiles as a box and its median as a line. */
export interface StripRow {
  readonly label: string;
  readonly values: readonly number[];
  readonly summary: Summary;
  /** Label at its end. */
  readonly value: string;
  /** Whether the other rows are compared with this one. */
  readonly baseline: boolean;
}

export interface PlotOptions {
  /** For screen readers. */
  readonly title: string;
  readonly format: (value: number) => string;
}

/** Plots each measurement as a dot, one row per path; the axis starts at zero. */
export function stripPlot(rows: readonly StripRow[], { title, format }: PlotOptions): string {
  const most = Math.max(...rows.flatMap(({ values }) => values));
  return plots(rows.length, most, { title, format }, (x, layout) =>
    rows.map(({ label, values, summary, value, baseline }, at) => {
      const y = at * layout.rowHeight + layout.middle;
      const box = `<rect class="box" x="${x(summary.lowerQuartile)}" y="${y - 9}" width="${px(x(summary.upperQuartile) - x(summary.lowerQuartile))}" height="18"/>`;
      const middle = `<line class="median" x1="${x(summary.median)}" x2="${x(summary.median)}" y1="${y - 11}" y2="${y + 11}"/>`;
      // Alternating heights, so that equal values can be distinguished.
      const dots = values.map(
        (value, i) => `<circle class="dot" cx="${x(value)}" cy="${px(y + ((i % 3) - 1) * 4)}" r="3"/>`,
      );
      return `<g class="${baseline ? 'baseline' : 'own'}">${texts(label, value, at, layout)}${box}${dots.join('')}${middle}</g>`;
    }),
  );
}

/** One part of a bar; `name` chooses its colour. */
export interface BarPart {
  readonly name: string;
  readonly value: number;
}

export interface BarRow {
  readonly label: string;
  readonly parts: readonly BarPart[];
  readonly value: string;
}

/** Plots stacked bars with a legend. */
export function stackedBars(rows: readonly BarRow[], { title, format }: PlotOptions): string {
  const total = ({ parts }: BarRow): number => parts.reduce((sum, { value }) => sum + value, 0);
  const most = Math.max(...rows.map(total));
  const names = [...new Set(rows.flatMap(({ parts }) => parts.map(({ name }) => name)))];
  const legend = names.map(
    (name) => `<li><span class="key ${classOf(name)}"></span>${escapeMarkup(name)}</li>`,
  );
  const bars = plots(rows.length, most, { title, format }, (x, layout) =>
    rows.map(({ label, parts, value }, at) => {
      const y = at * layout.rowHeight + layout.middle;
      let from = 0;
      const pieces = parts.map((part) => {
        const left = x(from);
        from += part.value;
        const what = `${label}, ${part.name}: ${format(part.value)}`;
        return `<rect class="part ${classOf(part.name)}" x="${left}" y="${y - 9}" width="${px(x(from) - left)}" height="18"><title>${escapeMarkup(what)}</title></rect>`;
      });
      return `<g>${texts(label, value, at, layout)}${pieces.join('')}</g>`;
    }),
  );
  return `${bars}\n<ul class="legend">${legend.join('')}</ul>`;
}

/** Returns the CSS class of a part's colour. */
function classOf(name: string): string {
  return `p-${name.toLowerCase().replaceAll(/[^a-z]+/g, '-')}`;
}

function texts(
  label: string,
  value: string,
  row: number,
  { labelX, valueX, textY, rowHeight }: Layout,
): string {
  const y = row * rowHeight + textY;
  return (
    `<text class="label" x="${labelX}" y="${y}">${escapeMarkup(label)}</text>` +
    `<text class="value" x="${valueX}" y="${y}">${escapeMarkup(value)}</text>`
  );
}

/** Draws a plot twice: for wide windows and paper, and for narrow windows. */
function plots(
  rowCount: number,
  most: number,
  options: PlotOptions,
  draw: (x: (value: number) => number, layout: Layout) => readonly string[],
): string {
  return [WIDE, NARROW].map((layout) => plot(rowCount, most, options, draw, layout)).join('\n');
}

function plot(
  rowCount: number,
  most: number,
  { title, format }: PlotOptions,
  draw: (x: (value: number) => number, layout: Layout) => readonly string[],
  layout: Layout,
): string {
  const { name, width, plotLeft, plotWidth, rowHeight } = layout;
  const end = (most > 0 ? most : 1) * HEADROOM;
  const x = (value: number): number => px(plotLeft + (value / end) * plotWidth);
  const bottom = rowCount * rowHeight;
  const grid = ticks(end, layout.ticks).map(
    (at) =>
      `<line class="grid" x1="${x(at)}" x2="${x(at)}" y1="0" y2="${bottom}"/>` +
      // At the edge, half of a text in the middle would be cut off.
      `<text class="tick${at === 0 ? ' first' : ''}" x="${x(at)}" y="${bottom + 17}">${escapeMarkup(format(at))}</text>`,
  );
  return [
    `<svg class="${name}" viewBox="0 0 ${width} ${bottom + AXIS_HEIGHT}" role="img" aria-label="${escapeMarkup(title)}">`,
    ...grid,
    ...draw(x, layout),
    '</svg>',
  ].join('\n');
}

/** Returns round numbers from 0 to `end`, about `count` of them: steps of 1, 2 or 5 times a power of ten. */
export function ticks(end: number, count = 6): readonly number[] {
  const rough = end / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Rounds to a hundredth. */
function px(value: number): number {
  return Math.round(value * 100) / 100;
}

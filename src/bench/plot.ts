/** Draws the plots of a bench's report, as SVG for a page of HTML. */
import { escapeMarkup } from './markup.ts';
import type { Summary } from './statistics.ts';

/** Width of a plot in pixels at full size. Colours are classes, and come from the page's style sheet. */
const WIDTH = 760;
const LABEL_WIDTH = 180;
const VALUE_WIDTH = 128;
const PLOT_LEFT = LABEL_WIDTH + 8;
const PLOT_WIDTH = WIDTH - PLOT_LEFT - VALUE_WIDTH - 16;
const ROW_HEIGHT = 34;
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
  return plot(rows.length, most, { title, format }, (x) =>
    rows.map(({ label, values, summary, value, baseline }, at) => {
      const y = at * ROW_HEIGHT + ROW_HEIGHT / 2;
      const box = `<rect class="box" x="${x(summary.lowerQuartile)}" y="${y - 9}" width="${px(x(summary.upperQuartile) - x(summary.lowerQuartile))}" height="18"/>`;
      const middle = `<line class="median" x1="${x(summary.median)}" x2="${x(summary.median)}" y1="${y - 11}" y2="${y + 11}"/>`;
      // Alternating heights, so that equal values can be distinguished.
      const dots = values.map(
        (value, i) => `<circle class="dot" cx="${x(value)}" cy="${px(y + ((i % 3) - 1) * 4)}" r="3"/>`,
      );
      return `<g class="${baseline ? 'baseline' : 'own'}">${texts(label, value, y)}${box}${dots.join('')}${middle}</g>`;
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
  const bars = plot(rows.length, most, { title, format }, (x) =>
    rows.map(({ label, parts, value }, at) => {
      const y = at * ROW_HEIGHT + ROW_HEIGHT / 2;
      let from = 0;
      const pieces = parts.map((part) => {
        const left = x(from);
        from += part.value;
        const what = `${label}, ${part.name}: ${format(part.value)}`;
        return `<rect class="part ${classOf(part.name)}" x="${left}" y="${y - 9}" width="${px(x(from) - left)}" height="18"><title>${escapeMarkup(what)}</title></rect>`;
      });
      return `<g>${texts(label, value, y)}${pieces.join('')}</g>`;
    }),
  );
  return `${bars}\n<ul class="legend">${legend.join('')}</ul>`;
}

/** Returns the CSS class of a part's colour. */
function classOf(name: string): string {
  return `p-${name.toLowerCase().replaceAll(/[^a-z]+/g, '-')}`;
}

function texts(label: string, value: string, y: number): string {
  return (
    `<text class="label" x="${LABEL_WIDTH}" y="${y + 4}">${escapeMarkup(label)}</text>` +
    `<text class="value" x="${WIDTH - VALUE_WIDTH}" y="${y + 4}">${escapeMarkup(value)}</text>`
  );
}

function plot(
  rowCount: number,
  most: number,
  { title, format }: PlotOptions,
  draw: (x: (value: number) => number) => readonly string[],
): string {
  const end = (most > 0 ? most : 1) * HEADROOM;
  const x = (value: number): number => px(PLOT_LEFT + (value / end) * PLOT_WIDTH);
  const bottom = rowCount * ROW_HEIGHT;
  const grid = ticks(end).map(
    (at) =>
      `<line class="grid" x1="${x(at)}" x2="${x(at)}" y1="0" y2="${bottom}"/>` +
      `<text class="tick" x="${x(at)}" y="${bottom + 17}">${escapeMarkup(format(at))}</text>`,
  );
  return [
    `<svg viewBox="0 0 ${WIDTH} ${bottom + AXIS_HEIGHT}" role="img" aria-label="${escapeMarkup(title)}">`,
    ...grid,
    ...draw(x),
    '</svg>',
  ].join('\n');
}

/** Returns round numbers from 0 to `end`, four to eight of them: steps of 1, 2 or 5 times a power of ten. */
export function ticks(end: number): readonly number[] {
  const rough = end / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5].find((factor) => factor * power >= rough) ?? 10);
  return Array.from({ length: Math.floor(end / step) + 1 }, (_, i) => Number((i * step).toPrecision(12)));
}

/** Rounds to a hundredth. */
function px(value: number): number {
  return Math.round(value * 100) / 100;
}

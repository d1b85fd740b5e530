/** The style sheet of a report: light or dark as the reader's system prefers, and light on paper. */
const LIGHT = `
  color-scheme: light;
  --paper: #fff; --ink: #1b1f24; --muted: #5b6470; --line: #d8dde3; --box: #dbe6f4; --dot: #1c62b3; --base: #6a7380; --base-box: #e6e9ed;
  --process: #b6bdc6; --checks: #8d97a3; --open: #b47aa8; --precopy: #2f7fc4; --suspend: #e0a021; --stopped: #cf5a12; --finish: #23936b;
  --device-model: #b47aa8; --memory: #7a4fb5; --contexts: #8a6d1d; --disks: #2f7fc4; --resume: #23936b; --warn: #fff4d6;`;
const DARK = `
  color-scheme: dark;
  --paper: #15181c; --ink: #e4e7eb; --muted: #9aa4b0; --line: #353b43; --box: #23405f; --dot: #78b4f0; --base: #a3acb8; --base-box: #3a4048;
  --process: #59616b; --checks: #7d8793; --open: #c892bd; --precopy: #5ba3e0; --suspend: #e6b450; --stopped: #ec7f3c; --finish: #45b88d;
  --device-model: #c892bd; --memory: #a987e0; --contexts: #c2a250; --disks: #5ba3e0; --resume: #45b88d; --warn: #3d3218;`;

/** Colours of the parts of bars. */
const PARTS: Readonly<Record<string, string>> = {
  'start-and-end-of-the-process': 'process',
  checks: 'checks',
  open: 'open',
  'copied-while-the-guest-runs': 'precopy',
  'waiting-for-the-guest-to-suspend': 'suspend',
  'guest-stopped': 'stopped',
  finish: 'finish',
  'on-disk': 'precopy',
  'zeros-left-out': 'process',
  'device-model': 'device-model',
  memory: 'memory',
  contexts: 'contexts',
  disks: 'disks',
  resume: 'resume',
};

export const REPORT_STYLE = `
:root {${LIGHT} }
@media (prefers-color-scheme: dark) { :root {${DARK} } }
@media print { :root {${LIGHT} } }
body { margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 60rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; }
p, ul { max-width: 46rem; }
.sub, figcaption, .small { color: var(--muted); font-size: .9rem; }
code { font: .9em ui-monospace, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
figure { margin: .5rem 0 0; }
figcaption { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 60%; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
td, th:first-child { white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: 600; }
svg { display: block; width: 100%; height: auto; font-size: 12.5px; }
svg.narrow { display: none; }
svg text { fill: var(--ink); }
svg .label { text-anchor: end; }
svg .value { font-variant-numeric: tabular-nums; }
svg.narrow .first { text-anchor: start; }
svg.narrow .label { text-anchor: start; font-weight: 600; }
svg.narrow .value { text-anchor: end; }
svg .tick { fill: var(--muted); text-anchor: middle; font-size: 11px; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .box { fill: var(--box); }
svg .dot { fill: var(--dot); fill-opacity: .65; }
svg .median { stroke: var(--dot); stroke-width: 2.5; }
svg .baseline .box { fill: var(--base-box); }
svg .baseline .dot { fill: var(--base); }
svg .baseline .median { stroke: var(--base); }
${Object.entries(PARTS)
  .map(([name, colour]) => `.p-${name} { fill: var(--${colour}); background: var(--${colour}); }`)
  .join('\n')}
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; padding: 0; margin: .25rem 0 0; list-style: none; font-size: .875rem; }
.key { display: inline-block; width: .8rem; height: .8rem; margin-right: .4rem; vertical-align: -.08rem; border-radius: 2px; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
.failed { border-left: 4px solid var(--stopped); padding: .1rem 0 .1rem .9rem; margin: 1.25rem 0; }
.failed h2 { margin-top: .25rem; }
.result { font-size: 1.1rem; }
.caution { background: var(--warn); border-left: 4px solid var(--suspend); padding: .5rem .9rem; margin: 1rem 0; max-width: 46rem; }
.caution ul { margin: 0; padding-left: 1.1rem; }
@media screen and (max-width: 40rem) {
  body { padding: 1rem .75rem 2rem; }
  svg.wide { display: none; }
  svg.narrow { display: block; }
  .cards thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .cards table, .cards tbody, .cards tr, .cards th, .cards td { display: block; }
  .cards tr { padding: .6rem 0; border-bottom: 1px solid var(--line); }
  .cards th, .cards td { border: 0; padding: .1rem 0; white-space: normal; }
  .cards td { display: flex; justify-content: space-between; gap: 1rem; }
  .cards td:empty { display: none; }
  .cards td::before { content: attr(data-label); color: var(--muted); text-align: left; }
  .scroll { background: linear-gradient(90deg, var(--paper) 1.5rem, transparent) local, linear-gradient(270deg, var(--paper) 1.5rem, transparent) 100% 0 local,
    linear-gradient(90deg, var(--line), transparent .9rem), linear-gradient(270deg, var(--line), transparent .9rem) 100% 0; }
}
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; font-size: .9rem; }
dt { color: var(--muted); }
dd { margin: 0; overflow-wrap: anywhere; }
@page { size: A4; margin: 14mm; }
@media print {
  body { padding: 0; max-width: none; font-size: 9.5pt; }
  svg { font-size: 12px; }
  .scroll { overflow: visible; }
  table { font-size: 7.6pt; }
  th, td { padding: .2rem .35rem; }
  thead { display: table-header-group; }
  tr, figure, dl { break-inside: avoid; }
  h2 { break-after: avoid; margin-top: 1.4rem; }
}
`;

/** The text that `xlsnap inspect FILE` prints. */
import { PAGE_SIZE } from '../core/brand.ts';
import type { Inspection, MemoryMap } from '../memfile/inspect.ts';
import type { DomainSummary } from '../memfile/libxl-config.ts';
import type { Manifest, SnapshotDisk } from '../memfile/manifest.ts';
import type { PageRange, RecordCount } from '../savefmt/index.ts';
import { formatPages, formatSeconds, formatSize, indentedTable } from './text.ts';

/** Columns that the titles at the left take. */
const TITLE = 10;

/**
 * What `inspect FILE` prints.
 * @param columns of the terminal; `undefined` if there is none
 */
export function inspectionText(inspection: Inspection, columns: number | undefined): string {
  const { path, domain, manifest, memory, records } = inspection;
  return [
    path,
    ...(manifest === undefined ? [] : snapshotLines(manifest)),
    ...damageLines(inspection),
    ...(domain === undefined ? [] : domainLines(domain, inspection.type)),
    ...fileLines(inspection),
    ...(domain === undefined ? [] : diskLines(domain, manifest)),
    ...(manifest === undefined || manifest.phases.length === 0 ? [] : phaseLines(manifest)),
    ...(memory.pages === 0
      ? []
      : ['', ...memoryLines(memory, inspection.type === 'pv' ? 'pfns' : 'gfns', columns)]),
    ...(records.length === 0 ? [] : ['', ...recordLines(records, columns)]),
  ].join('\n');
}

/** Formats a manifest's time, to the second. */
export function timeText(created: string): string {
  return created.replace('T', ' ').replace(/\.\d+Z$/, ' UTC');
}

/** Puts a title before the first line, and indents the others. */
function addTitle(title: string, texts: readonly string[]): string[] {
  return texts.map((text, i) => `  ${(i === 0 ? title : '').padEnd(TITLE)}${text}`);
}

function snapshotLines({ name, description, created, state }: Manifest): string[] {
  return addTitle('snapshot', [
    `"${name}", ${timeText(created)}, the domain was ${state}`,
    ...(description === '' ? [] : description.split('\n')),
  ]);
}

/** Says that the file is damaged; the findings themselves are reported with the error. */
function damageLines({ sound, findings }: Inspection): string[] {
  const first = findings.find(({ severity }) => severity === 'error');
  if (first?.code === 'XL_MAGIC') return addTitle('contents', ['not a save file of xl']);
  return sound ? [] : addTitle('damaged', [`at offset ${first?.offset ?? 0}; this is what could be read`]);
}

function domainLines(domain: DomainSummary, type: string | undefined): string[] {
  const { name, uuid, vcpus, maxVcpus, memoryBytes, maxMemoryBytes } = domain;
  const facts = [
    type?.toUpperCase(),
    range(vcpus, maxVcpus, String, (n) => `${n} vCPU${n === 1 ? '' : 's'}`),
    range(memoryBytes, maxMemoryBytes, formatSize, formatSize),
  ].filter((fact) => fact !== undefined);
  return addTitle('domain', [
    `${name ?? '(no name)'}, ${facts.join(', ')}`,
    ...(uuid === undefined ? [] : [uuid]),
  ]);
}

/** `2 vCPUs`, `2 of 4 vCPUs`. */
function range(
  now: number | undefined,
  most: number | undefined,
  plain: (value: number) => string,
  full: (value: number) => string,
): string | undefined {
  if (most === undefined) return now === undefined ? undefined : full(now);
  return now === undefined || now === most ? full(most) : `${plain(now)} of ${full(most)}`;
}

function fileLines({ bytes, allocatedBytes, xen, streamVersion, header }: Inspection): string[] {
  const by = xen === undefined ? [] : [`saved by Xen ${xen.major}.${xen.minor}`];
  if (streamVersion !== undefined) by.push(`stream version ${streamVersion}`);
  if (header !== undefined) by.push(`${formatSize(header.configBytes)} of configuration`);
  return addTitle('file', [
    `${formatSize(bytes)}, ${formatSize(allocatedBytes)} on disk`,
    ...(by.length === 0 ? [] : [by.join(', ')]),
  ]);
}

function diskLines({ disks }: DomainSummary, manifest: Manifest | undefined): string[] {
  const texts = disks.flatMap((disk) => {
    const { vdev, format, path, writable, cdrom } = disk;
    const kind = cdrom ? ', CD-ROM' : writable ? '' : ', read-only';
    const taken = manifest?.disks.find((disk) => disk.vdev === vdev);
    const how = taken === undefined ? [] : [`  ${takenText(taken)}`];
    return [`${vdev} ${format ?? ''} ${path ?? '(empty)'}${kind}`, ...how];
  });
  return addTitle('disks', texts);
}

function takenText(disk: SnapshotDisk): string {
  switch (disk.kind) {
    case 'internal':
      return `tag "${disk.tag}"`;
    case 'external':
      return `continued on ${disk.overlay}`;
    case 'storage':
      return `snapshot ${disk.snapshot}`;
  }
}

function phaseLines({ phases }: Manifest): string[] {
  return addTitle(
    'phases',
    wrapItems(phases.map(({ name, seconds }) => `${name} ${formatSeconds(seconds)}`)),
  );
}

/** Joined with commas, in lines of not much more than 60 characters. */
function wrapItems(texts: readonly string[]): string[] {
  const lines: string[] = [];
  for (const [i, text] of texts.entries()) {
    const part = i === texts.length - 1 ? text : `${text},`;
    const last = lines.at(-1);
    if (last === undefined || last.length + part.length > 60) lines.push(part);
    else lines[lines.length - 1] = `${last} ${part}`;
  }
  return lines;
}

function memoryLines(memory: MemoryMap, frames: string, columns: number | undefined): string[] {
  const { pages, holes, storedZeros, read, holesKnown, repeated, superpages, types, gap, ranges } = memory;
  const zeros = [
    ...(holesKnown && holes > 0 ? [`${formatPages(holes)} zeros that take no space`] : []),
    ...(read && storedZeros > 0 ? [`${formatPages(storedZeros)} zeros that take space`] : []),
  ];
  const kinds = Object.entries(types).map(([name, count]) => `${name} ${count}`);
  const rows = ranges.map((range) => rangeRow(range, read));
  return [
    `Memory: ${formatPages(pages)}${zeros.length === 0 ? '' : `, of which ${zeros.join(', ')}`}`,
    ...(kinds.length === 1 && types['NOTAB'] !== undefined ? [] : addTitle('types', wrapItems(kinds))),
    ...(repeated === 0
      ? []
      : [`  ${formatPages(repeated)} are in the file more than once; the last copy counts`]),
    ...(superpages === 0 ? [] : [`  ${superpages} superpages of 2 MiB after a restore by Xen 4.21 or later`]),
    ...indentedTable([[frames, 'size', 'holes', 'zeros'], ...rows], columns),
    ...(gap === 1 ? [] : [`  (ranges less than ${formatSize(gap * PAGE_SIZE)} apart are shown as one)`]),
  ];
}

function rangeRow({ firstPfn, lastPfn, pages, holes, storedZeros }: PageRange, read: boolean): string[] {
  const span = lastPfn - firstPfn + 1;
  return [
    `${firstPfn.toString(16).padStart(8, '0')}-${lastPfn.toString(16).padStart(8, '0')}`,
    formatSize(span * PAGE_SIZE),
    span === pages ? '' : formatSize((span - pages) * PAGE_SIZE),
    holes + storedZeros === 0 ? '' : formatSize((read ? holes + storedZeros : holes) * PAGE_SIZE),
  ];
}

function recordLines(records: readonly RecordCount[], columns: number | undefined): string[] {
  const rows = records.map(({ level, name, count, bytes }) => [
    `${level} ${name}`,
    String(count),
    String(bytes),
  ]);
  return ['Records', ...indentedTable([['', 'count', 'bytes'], ...rows], columns)];
}

/** Compares a memory file with the checksums in its manifest. */
import { type FileHandle, open } from 'node:fs/promises';
import { FileSource } from '../core/byte-source.ts';
import type { CallOptions } from '../core/call-options.ts';
import { type Finding, type LocatedItem, RecordError, readStream, StreamError } from '../savefmt/index.ts';
import { type ChecksumOptions, checksumFile, differing, type FileRange } from './checksums.ts';
import type { Manifest } from './manifest.ts';

/** Maximum number of stretches that are reported one by one. */
const MAX_REPORTED = 100;

/**
 * Reads a whole memory file and compares it with its manifest's checksums. Says in which records it differs.
 * A manifest without checksums, of an early version, has the length only. Passes on the error of open(2) or
 * read(2), as Node makes it.
 * @returns errors MEMORY_CHANGED (another length) or CHECKSUM; none if every byte is as it was written
 * @throws {InterruptedError} If the signal aborted.
 */
export async function findDamage(
  path: string,
  { memory, checksums }: Pick<Manifest, 'memory' | 'checksums'>,
  { reporter, signal, extents, xxh3 }: CallOptions & Pick<ChecksumOptions, 'extents' | 'xxh3'> = {},
): Promise<readonly Finding[]> {
  await using file: FileHandle = await open(path, 'r');
  const { size } = await file.stat();
  if (size !== memory.bytes) {
    return [
      {
        severity: 'error',
        code: 'MEMORY_CHANGED',
        message: `${path} has ${size} bytes; its manifest says ${memory.bytes}`,
        offset: Math.min(size, memory.bytes),
        hint: 'this is not the file that was written: find the right one',
      },
    ];
  }
  if (checksums === undefined) return [];
  const found = await checksumFile(file.fd, size, checksums, {
    signal,
    extents,
    xxh3,
    progress: (done) => reporter?.progress({ phase: 'check', done, total: size, unit: 'bytes' }),
  });
  const bad = differing(size, checksums, found);
  const told = bad.slice(0, MAX_REPORTED);
  const names = told.length === 0 ? [] : await namesOf(path, told, signal);
  const findings = told.map(({ from, to }, i): Finding => {
    const within = names[i] ?? [];
    return {
      severity: 'error',
      code: 'CHECKSUM',
      message:
        `bytes ${from} to ${to - 1} are not what was written` +
        (within.length === 0 ? '' : `: ${within.join(', ')}`),
      offset: from,
      hint: 'use a copy of the file, if there is one',
    };
  });
  const more = bad[told.length];
  if (more === undefined) return findings;
  return [
    ...findings,
    {
      severity: 'error',
      code: 'CHECKSUM',
      message: `${bad.length - told.length} more stretches are not what was written`,
      offset: more.from,
    },
  ];
}

/** Names the headers and records in each of the ranges, as far as the stream can be read. */
async function namesOf(
  path: string,
  ranges: readonly FileRange[],
  signal: AbortSignal | undefined,
): Promise<readonly (readonly string[])[]> {
  const names = ranges.map((): string[] => []);
  let before: { readonly from: number; readonly name: string } | undefined;
  const endAt = (to: number): void => {
    for (const [i, range] of ranges.entries()) {
      if (before !== undefined && before.from < range.to && to > range.from) names[i]?.push(before.name);
    }
  };
  await using source = await FileSource.open(path);
  try {
    for await (const item of readStream(source, { signal })) {
      endAt(item.offset);
      before = { from: item.offset, name: nameOf(item) };
    }
    endAt(source.offset);
  } catch (error) {
    // The file is damaged, after all; what cannot be read begins where the last item was to end.
    if (!(error instanceof StreamError || error instanceof RecordError)) throw error;
    endAt(source.offset);
  }
  return names;
}

function nameOf(item: LocatedItem): string {
  const at = `at offset ${item.offset}`;
  if (item.kind !== 'libxc-record' && item.kind !== 'libxl-record') return `${item.kind} ${at}`;
  if (item.record.name !== 'PAGE_DATA') return `${item.record.name} ${at}`;
  const { words } = item.record;
  let [least, most] = [Number.POSITIVE_INFINITY, 0];
  for (let i = 0; i < words.count; i++) {
    least = Math.min(least, words.pfn(i));
    most = Math.max(most, words.pfn(i));
  }
  return `PAGE_DATA ${at} (pfns 0x${least.toString(16)} to 0x${most.toString(16)})`;
}

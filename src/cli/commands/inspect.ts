/** Runs `xlsnap inspect`. */
import { writeFile } from 'node:fs/promises';
import { EXIT, OutputError, UsageError } from '../../core/errors.ts';
import { damagedFileError } from '../../memfile/verify.ts';
import { compareMemoryFiles, inspectMemoryFile } from '../../toolstack/memory-file.ts';
import { comparisonText } from '../compare-text.ts';
import type { CliContext } from '../context.ts';
import { inspectionText } from '../inspect-text.ts';
import { runLocal } from '../local.ts';
import { changePicture } from '../picture.ts';

/** Lines of the memory map on a screen. */
const SHOWN_RANGES = 16;

export interface InspectFileOptions {
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly readPages?: boolean;
  /** Path of an SVG; only for two files. */
  readonly picture?: string;
}

/** Runs `xlsnap inspect FILE [OTHER]`; needs no Xen. Returns the exit code: `format` if a file is damaged. */
export function inspectFiles(
  context: CliContext,
  path: string,
  other: string | undefined,
  options: InspectFileOptions,
): Promise<number> {
  const { json, quiet, readPages = false, picture } = options;
  const maxRanges = json === true ? undefined : SHOWN_RANGES;
  return runLocal(context, { json, quiet, interruptible: true }, async ({ reporter, signal, print }) => {
    checkPicture(picture, other);
    if (other === undefined) {
      const inspection = await inspectMemoryFile(path, { signal, readPages, maxRanges });
      print('inspect_result', inspection, (columns) => inspectionText(inspection, columns));
      for (const warning of inspection.warnings) reporter.log('warning', warning);
      if (!inspection.sound) throw damagedFileError(path, inspection.findings, inspection.omitted);
      return EXIT.ok;
    }
    const comparison = await compareMemoryFiles(path, other, { signal, reporter, maxRanges });
    if (picture !== undefined) await write(picture, changePicture(comparison));
    const { cells, ...shown } = comparison;
    print('compare_result', { ...shown, picture }, (columns) => comparisonText(comparison, picture, columns));
    const { a, b } = comparison;
    for (const warning of [...a.warnings, ...b.warnings]) reporter.log('warning', warning);
    return EXIT.ok;
  });
}

/** Checks the picture's name, so that a typing error cannot overwrite a memory file. */
function checkPicture(picture: string | undefined, other: string | undefined): void {
  if (picture === undefined) return;
  if (other === undefined) {
    throw new UsageError('PICTURE', '--picture shows what changed between two files', {
      hint: 'xlsnap inspect A B --picture FILE.svg',
    });
  }
  if (!picture.endsWith('.svg')) {
    throw new UsageError('PICTURE', `--picture: ${picture} does not end with .svg`, {
      hint: 'the picture is an SVG; rsvg-convert turns it into a PNG',
    });
  }
}

async function write(path: string, text: string): Promise<void> {
  try {
    await writeFile(path, text);
  } catch (cause) {
    throw new OutputError('PICTURE_WRITE', `cannot write ${path}`, { cause });
  }
}

import { writeFile } from 'node:fs/promises';
import { EXIT, OutputError, UsageError } from '../../core/errors.ts';
import { damaged } from '../../memfile/verify.ts';
import { compareMemoryFiles, inspectMemoryFile } from '../../toolstack/memory-file.ts';
import { comparisonText } from '../compare-text.ts';
import type { CliContext } from '../context.ts';
import { inspectionText } from '../inspect-text.ts';
import { changePicture } from '../picture.ts';
import { makeReporter } from '../progress.ts';
import { reportError } from '../report-error.ts';
import { catchSignals } from '../signals.ts';
import { jsonLine, printable } from '../text.ts';

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
export async function inspectFiles(
  context: CliContext,
  path: string,
  other: string | undefined,
  options: InspectFileOptions,
): Promise<number> {
  const json = options.json === true;
  const reporter = makeReporter(context, { json, quiet: options.quiet === true });
  using interruption = catchSignals(context, () => {});
  const { signal } = interruption;
  const say = (type: string, value: object, text: () => string): void => {
    reporter.clear();
    context.stdout.write(`${json ? jsonLine(type, value) : printable(text())}\n`);
  };
  const ranges = json ? {} : { maxRanges: SHOWN_RANGES };
  try {
    checkPicture(options.picture, other);
    if (other === undefined) {
      const readPages = options.readPages === true;
      const inspection = await inspectMemoryFile(path, { signal, readPages, ...ranges });
      say('inspect_result', inspection, () => inspectionText(inspection));
      for (const warning of inspection.warnings) reporter.log('warning', warning);
      if (!inspection.sound) throw damaged(path, inspection.findings, inspection.omitted);
      return EXIT.ok;
    }
    const comparison = await compareMemoryFiles(path, other, { signal, reporter, ...ranges });
    if (options.picture !== undefined) await write(options.picture, changePicture(comparison));
    const { cells, ...shown } = comparison;
    say('compare_result', { ...shown, picture: options.picture }, () =>
      comparisonText(comparison, options.picture),
    );
    for (const warning of [...comparison.a.warnings, ...comparison.b.warnings])
      reporter.log('warning', warning);
    return EXIT.ok;
  } catch (error) {
    reporter.clear();
    return interruption.exitCodeOf(error, reportError(context, error, json));
  }
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

import { FileSource } from '../core/byte-source.ts';
import { EXIT, errnoCode, XlsnapError } from '../core/errors.ts';
import { readXlHeader, verifyStream, xlConfigText } from '../savefmt/index.ts';
import { parseLibxlConfig } from './libxl-config.ts';
import type { LibxlConfig } from './ports.ts';
import type { CallOptions } from './types.ts';

/** What a memory file says of itself, once it has been read to its end. */
export interface MemoryFacts {
  readonly config: LibxlConfig;
  /** Xen that the snapshot was taken on. */
  readonly xen: { readonly major: number; readonly minor: number };
}

/** A memory file that xl could not restore. */
export class MemoryFileError extends XlsnapError {
  readonly exitCode = EXIT.format;
}

/**
 * Reads a memory file from its header to its end, going over the pages' content, and checks it as the specifications
 * say. Octets behind the end are refused too: the file is not what was written.
 * @throws MemoryFileError, LibxlConfigError, InterruptedError
 */
export async function readMemoryFacts(path: string, { signal }: CallOptions = {}): Promise<MemoryFacts> {
  await using source = await openMemoryFile(path);
  const { findings, facts } = await verifyStream(source, { signal });
  const problem = findings.find(({ severity, code }) => severity === 'error' || code === 'TRAILING');
  if (problem !== undefined) {
    throw new MemoryFileError(problem.code, `the memory file ${path} is damaged: ${problem.message}`, {
      offset: problem.offset,
      hint: problem.hint ?? 'nothing has been touched',
      data: { findings },
    });
  }
  if (facts.configText === undefined || facts.xen === undefined) {
    throw new MemoryFileError('INCOMPLETE', `the memory file ${path} does not say which domain it is of`);
  }
  return { config: parseLibxlConfig(facts.configText), xen: facts.xen };
}

/**
 * The configuration in a memory file's header; the rest of the file is not looked at.
 * @throws MemoryFileError, StreamError, LibxlConfigError
 */
export async function readStoredConfig(path: string): Promise<LibxlConfig> {
  await using source = await openMemoryFile(path);
  return parseLibxlConfig(xlConfigText(await readXlHeader(source)));
}

async function openMemoryFile(path: string): Promise<FileSource> {
  try {
    return await FileSource.open(path);
  } catch (cause) {
    const missing = errnoCode(cause) === 'ENOENT';
    throw new MemoryFileError(
      missing ? 'NO_MEMORY_FILE' : 'MEMORY_FILE',
      missing ? `there is no memory file ${path}` : `cannot open the memory file ${path}`,
      { cause, hint: 'nothing has been touched' },
    );
  }
}

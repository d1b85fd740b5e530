/**
 * Installs a program `xl` for those who want to type `xl snapshot-create`: it passes the snapshot
 * commands and their help to xlsnap, and everything else, unchanged, to the real xl. It is a shell script that replaces
 * itself with either (exec), so arguments, standard streams, exit codes and signals are those of that
 * program. It is only installed on request.
 */
import { constants } from 'node:fs';
import { access, lstat, open, rename, rm } from 'node:fs/promises';
import { delimiter, dirname, join, resolve } from 'node:path';
import { EnvironmentError, errnoCode, OutputError } from '../../core/errors.ts';
import { exists } from '../../core/files.ts';
import { shellQuote } from '../../core/shell-quote.ts';

/** Default prefix. It is in root's usual PATH, before the system's own programs. */
export const DEFAULT_PREFIX = '/usr/local';

/** The commands that go to xlsnap. */
export const WRAPPED_COMMANDS = [
  'snapshot-create',
  'snapshot-list',
  'snapshot-revert',
  'snapshot-delete',
] as const;

/** The second line of each wrapper. A file without it is not ours. */
const MARK = '# xl wrapper of xlsnap';

/** An installed or removed wrapper. */
export interface XlWrapper {
  readonly path: string;
  /** Path of the program that gets everything else. */
  readonly xl: string;
  readonly xlsnap: string;
  readonly warnings: readonly string[];
}

/** Returns the path of the wrapper below a prefix. */
export function xlWrapperPath(prefix: string): string {
  return join(resolve(prefix), 'sbin', 'xl');
}

/** Returns whether the file is such a wrapper. */
export async function isXlWrapper(path: string): Promise<boolean> {
  return (await firstLines(path)).includes(MARK);
}

/**
 * Installs the wrapper, or replaces an older one of ours.
 * @param xlsnap absolute path of the program xlsnap
 * @throws {OutputError} If the file exists and is not our wrapper, or cannot be created.
 * @throws {EnvironmentError} If there is no real xl.
 */
export async function installXlWrapper(prefix: string, xlsnap: string): Promise<XlWrapper> {
  const path = xlWrapperPath(prefix);
  if (!(await isOursOrNone(path))) {
    throw new OutputError('NOT_OURS', `${path} already exists, and is not an xlsnap wrapper`, {
      hint: 'it is not replaced: choose another --prefix',
    });
  }
  const found = await findXls();
  const xl = found.find((program) => !program.wrapper && program.path !== path)?.path;
  if (xl === undefined) {
    throw new EnvironmentError('NO_PROGRAM', 'there is no xl in PATH to wrap', {
      hint: "install Xen's tools: on Debian they are in the package xen-utils",
    });
  }
  await access(xlsnap, constants.X_OK).catch((cause: unknown) => {
    throw new EnvironmentError('NO_PROGRAM', `${xlsnap} cannot be run`, {
      cause,
      hint: 'install xlsnap first, then use the installed one for this',
    });
  });
  await replace(path, script(xl, xlsnap));
  const first = (await findXls())[0]?.path;
  const warnings =
    first === path ? [] : [`in PATH ${first ?? 'no xl'} comes first: put ${dirname(path)} before it`];
  return { path, xl, xlsnap, warnings };
}

/**
 * Removes the wrapper, if there is one.
 * @returns its path, and whether it was there
 * @throws {OutputError} If the file is not our wrapper.
 */
export async function removeXlWrapper(
  prefix: string,
): Promise<{ readonly path: string; readonly removed: boolean }> {
  const path = xlWrapperPath(prefix);
  if (!(await exists(path))) return { path, removed: false };
  if (!(await isXlWrapper(path))) {
    throw new OutputError('NOT_OURS', `${path} is not an xlsnap wrapper`, {
      hint: 'nothing was removed; was it installed with another --prefix?',
    });
  }
  await rm(path);
  return { path, removed: true };
}

function script(xl: string, xlsnap: string): string {
  const commands = WRAPPED_COMMANDS.join('|');
  const program = shellQuote(xlsnap);
  return [
    '#!/bin/sh',
    MARK,
    '# Installed by: xlsnap install-xl-wrapper. To remove it: xlsnap remove-xl-wrapper',
    `case "\${1-}" in`,
    `${commands}) exec ${program} "$@" ;;`,
    `help) case "\${2-}" in ${commands}) exec ${program} "$@" ;; esac ;;`,
    'esac',
    `exec ${shellQuote(xl)} "$@"`,
    '',
  ].join('\n');
}

async function isOursOrNone(path: string): Promise<boolean> {
  try {
    await lstat(path);
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return true;
    throw new OutputError('WRAPPER', `cannot access ${path}`, { cause: error });
  }
  return await isXlWrapper(path);
}

/** Finds all programs `xl` in PATH, in its order. */
async function findXls(): Promise<readonly { readonly path: string; readonly wrapper: boolean }[]> {
  const found: { path: string; wrapper: boolean }[] = [];
  for (const directory of (process.env['PATH'] ?? '').split(delimiter)) {
    if (directory === '') continue;
    const path = resolve(directory, 'xl');
    try {
      await access(path, constants.X_OK);
      found.push({ path, wrapper: await isXlWrapper(path) });
    } catch {
      // It does not exist, or is not a program.
    }
  }
  return found;
}

/** Writes all or nothing, since someone may run it in the meantime. */
async function replace(path: string, text: string): Promise<void> {
  const fresh = `${path}.${process.pid}.new`;
  try {
    await using file = await open(fresh, 'wx', 0o755);
    await file.writeFile(text);
    await file.chmod(0o755);
    await rename(fresh, path);
  } catch (cause) {
    await rm(fresh, { force: true });
    throw new OutputError('WRAPPER', `cannot create ${path}`, {
      cause,
      hint: errnoCode(cause) === 'ENOENT' ? `create ${dirname(path)} first` : 'run it as root',
    });
  }
}

async function firstLines(path: string): Promise<readonly string[]> {
  try {
    await using file = await open(path);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(256), 0, 256, 0);
    return buffer.toString('latin1', 0, bytesRead).split('\n').slice(0, 3);
  } catch {
    return [];
  }
}

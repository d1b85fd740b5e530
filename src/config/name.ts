/** Checks snapshot names, paths and descriptions. */
import type { Problem } from '../core/problem.ts';

/**
 * Maximum length of a name in bytes of UTF-8: `NAME.save.json.partial` must fit NAME_MAX (255), a qcow2 tag
 * 255.
 */
export const MAX_NAME_BYTES = 200;

/** Control characters, and the two characters of Unicode that break a line. */
const CONTROL = /[\p{Cc}\p{Zl}\p{Zp}]/u;

/** Says what is wrong with a snapshot's name; `undefined` if nothing is. */
export function checkSnapshotName(name: string): Problem | undefined {
  const shown = JSON.stringify(name.length > 60 ? `${name.slice(0, 60)}…` : name);
  const problem = (why: string, hint?: string): Problem => ({
    code: 'BAD_NAME',
    message: `the name ${shown} ${why}`,
    hint,
  });
  if (name === '') return problem('is empty');
  if (!isWellFormed(name)) return problem('is not valid Unicode');
  if (CONTROL.test(name)) return problem('has a control character');
  if (name.includes('/')) return problem('has a slash', 'the name becomes part of a file name');
  if (name === '.' || name === '..') return problem('names a directory');
  if (name.startsWith('-')) return problem('starts with "-"', 'programs would take it for an option');
  if (/^[0-9]+$/.test(name)) {
    return problem('has only digits', 'qemu-img takes such a tag for the ID of a snapshot: add a letter');
  }
  const bytes = new TextEncoder().encode(name).length;
  if (bytes > MAX_NAME_BYTES) {
    return problem(`has ${bytes} bytes; the maximum is ${MAX_NAME_BYTES}`, 'shorten it');
  }
  return undefined;
}

/** Maximum length of a path: PATH_MAX without its NUL (linux/limits.h). */
const MAX_PATH_BYTES = 4095;

/** Says what is wrong with a path in a cfgfile; `undefined` if nothing is. */
export function checkPath(path: string): Problem | undefined {
  const shown = JSON.stringify(path.length > 200 ? `${path.slice(0, 200)}…` : path);
  if (!isWellFormed(path) || CONTROL.test(path)) {
    return { code: 'BAD_PATH', message: `the path ${shown} has a control character or is not valid Unicode` };
  }
  if (!path.startsWith('/')) {
    return {
      code: 'RELATIVE_PATH',
      message: `the path ${shown} is not absolute`,
      hint: 'start it with /: a cfgfile can be used from any directory',
    };
  }
  if (path.endsWith('/')) {
    return { code: 'BAD_PATH', message: `the path ${shown} names a directory`, hint: 'name a file' };
  }
  if (new TextEncoder().encode(path).length > MAX_PATH_BYTES) {
    return { code: 'BAD_PATH', message: `the path ${shown} is longer than ${MAX_PATH_BYTES} bytes` };
  }
  return undefined;
}

/**
 * Says what is wrong with a description. It is shown on terminals, so tab and newline are the only control
 * characters allowed.
 */
export function checkDescription(text: string): Problem | undefined {
  if (isWellFormed(text) && !/[^\P{Cc}\t\n]/u.test(text)) return undefined;
  return {
    code: 'BAD_DESCRIPTION',
    message: 'the description has a control character or is not valid Unicode',
  };
}

function isWellFormed(text: string): boolean {
  return !/\p{Surrogate}/u.test(text);
}

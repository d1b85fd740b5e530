/** Reads the part of xl's own configuration that matters to a restore. */
import { readFile } from 'node:fs/promises';
import { errnoCode } from '../../core/errors.ts';

export const XL_CONF = '/etc/xen/xl.conf';

/** Whether Xen's command line gives dom0 a size, as tools/xl/xl.c tests it. */
const DOM0_MEM =
  /(?:^| )dom0_mem=(?:(?:|min:|max:)(?:-?[0-9]+[bBkKmMgGtT]?|(?:-?[0-9]+[bBkKmMgGtT]?\+)?[0-9]{1,2}%),?)+(?:$| )/;

/**
 * Returns whether xl takes memory from dom0 if a domain needs more than is free (xl.conf(5): autoballoon).
 * @param conf the text of xl.conf
 * @param commandLine returns Xen's command line; called if that matters
 */
export async function takesFromDom0(conf: string, commandLine: () => Promise<string>): Promise<boolean> {
  const settings = [...conf.matchAll(/^[ \t]*autoballoon[ \t]*=[ \t]*(["']?)([a-z0-9]+)\1/gm)];
  const setting = settings.at(-1)?.[2];
  if (setting === 'on' || setting === '1') return true;
  if (setting === 'off' || setting === '0') return false;
  return !DOM0_MEM.test(await commandLine());
}

/** Reads xl's configuration as text; the file need not exist. */
export async function readXlConf(path: string = XL_CONF): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if (errnoCode(error) === 'ENOENT') return '';
    throw error;
  }
}

/** Changes the domain configuration that libxl stores below /var/lib/xen. */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { EnvironmentError } from '../../core/errors.ts';
import { type LibxlConfig, parseLibxlConfig } from '../../memfile/libxl-config.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
import { lockFile } from '../../xenctrl/flock.ts';

/** Default of Xen's XEN_LIB_DIR. */
const DEFAULT_DIR = '/var/lib/xen';
/**
 * Time limit for libxl's lock, in milliseconds. libxl holds it briefly, but some of its commands do so while
 * they wait for a guest.
 */
const LOCK_TIMEOUT_MS = 30_000;

/**
 * Changes the configuration that libxl stores of a running domain, under libxl's lock and by a rename, as
 * libxl does (tools/libs/light/libxl_dom.c: libxl__userdata_path, libxl__userdata_store).
 * @throws {EnvironmentError} If there is none, or libxl's lock does not become free.
 */
export async function editStoredConfig(
  domain: { readonly domid: number; readonly uuid: string },
  edit: (config: LibxlConfig) => LibxlConfig,
  {
    directory = DEFAULT_DIR,
    lockTimeoutMs = LOCK_TIMEOUT_MS,
  }: { readonly directory?: string | undefined; readonly lockTimeoutMs?: number | undefined } = {},
): Promise<void> {
  const file = (kind: string, name: string): string =>
    join(directory, `userdata-${kind}.${domain.domid}.${domain.uuid}.${name}`);
  await using _lock = await lockFile(file('l', 'domain-userdata-lock'), lockTimeoutMs);
  const path = file('d', 'libxl-json');
  try {
    // libxl stores a trailing NUL.
    const text = (await readFile(path, 'utf8')).replace(/\0+$/, '');
    const fresh = file('n', 'libxl-json');
    await writeFile(fresh, `${printLibxlJson(edit(parseLibxlConfig(text)))}\0`, { mode: 0o600 });
    await rename(fresh, path);
  } catch (cause) {
    throw new EnvironmentError('LIBXL_CONFIG_UPDATE', `cannot update ${path}`, {
      cause,
      hint: 'was the domain started by xl? another toolstack must update its own configuration',
    });
  }
}

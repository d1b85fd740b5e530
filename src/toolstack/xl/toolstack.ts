/** The toolstack of a dom0 with xl: what `LibxlToolstack` leaves open, by xl. */
import type { Domid } from '../../core/brand.ts';
import { FileSource } from '../../core/byte-source.ts';
import { DomainError, describeError, EnvironmentError } from '../../core/errors.ts';
import { domainIdentity, type LibxlConfig, parseLibxlConfig } from '../../memfile/libxl-config.ts';
import { printLibxlJson } from '../../memfile/libxl-json.ts';
import { encodeXlHeader, makeXlHeader, readXlHeader, xlConfigText } from '../../savefmt/index.ts';
import type { RestoreOptions } from '../../snapshot/ports.ts';
import { findRestorer } from '../libxl/restorers.ts';
import { LibxlToolstack } from '../libxl/toolstack.ts';
import { destroyDomain, domainConfig, xenCommandLine } from './commands.ts';
import { readXlConf, takesFromDom0 } from './conf.ts';
import { xlRestore } from './restore.ts';
import { isOfDeviceModel, lastOfQemuLog } from './restore-failure.ts';

/** Time limit for removing a partly built domain, in milliseconds. */
const REMOVE_TIMEOUT_MS = 60_000;

/** Implements the port `Toolstack` with xl. */
export class XlToolstack extends LibxlToolstack {
  domainConfig(domid: Domid): Promise<LibxlConfig> {
    return domainConfig(domid);
  }

  destroy(domid: Domid, options: { timeoutMs: number; signal?: AbortSignal | undefined }): Promise<void> {
    return destroyDomain(this.hypervisor, this.xenstore, domid, options);
  }

  restorer(memoryPath: string, uuid: string): Promise<number | undefined> {
    return findRestorer(memoryPath, uuid);
  }

  async restore(
    memoryPath: string,
    config: LibxlConfig | undefined,
    { signal, onProgress }: RestoreOptions,
  ): Promise<Domid> {
    const { start, stored } = await readHeader(memoryPath);
    const { name, uuid } = domainIdentity(stored);
    if ((await this.findByName(name)) !== undefined) {
      throw new DomainError('DOMAIN_EXISTS', `a domain ${name} already exists`);
    }
    const since = Date.now();
    const header = config === undefined ? undefined : encodeXlHeader(makeXlHeader(printLibxlJson(config)));
    const from = header === undefined ? memoryPath : { path: memoryPath, start, header, uuid };
    try {
      await xlRestore(from, signal, undefined, onProgress);
    } catch (error) {
      const told = await withQemusWords(error, name, since);
      await this.#removeHalfBuilt(name, uuid, told);
      throw told;
    }
    const domid = await this.findByName(name);
    if (domid === undefined)
      throw new EnvironmentError('XL_RESTORE', `xl restore did not create the domain ${name}`);
    return domid;
  }

  /** Returns whether xl takes memory from dom0 (xl.conf(5): autoballoon). */
  protected override async takesFromDom0(): Promise<boolean> {
    return await takesFromDom0(await readXlConf(), xenCommandLine);
  }

  /**
   * Removes the partly built domain: xl does so itself, unless it was killed. Ours has never run; a domain
   * that another program has started under that name since then stays.
   * @throws {DomainError} If it cannot be removed.
   */
  async #removeHalfBuilt(name: string, uuid: string, error: unknown): Promise<void> {
    const left = await this.findByName(name);
    const state = left === undefined ? undefined : await this.hypervisor.domainState(left);
    if (state === undefined || state.uuid !== uuid || !state.paused) return;
    try {
      await this.destroy(state.domid, { timeoutMs: REMOVE_TIMEOUT_MS });
    } catch (problem) {
      throw new DomainError(
        'HALF_BUILT',
        `${describeError(error)}; the partly built domain ${name} still exists: ${describeError(problem)}`,
        { cause: error, domid: state.domid, hint: `xl destroy ${state.domid}` },
      );
    }
  }
}

/**
 * Adds the last line of QEMU's log to an error in which xl complains about the device model; that line says
 * why.
 */
async function withQemusWords(error: unknown, domain: string, since: number): Promise<unknown> {
  if (!(error instanceof EnvironmentError) || error.code !== 'XL_RESTORE') return error;
  if (!isOfDeviceModel(String(error.data['stderr'] ?? ''))) return error;
  const log = await lastOfQemuLog(domain, since);
  if (log === undefined) return error;
  return new EnvironmentError(error.code, `${error.message}; its QEMU says: ${log.line} (${log.path})`, {
    cause: error.cause,
    data: error.data,
    hint: error.hint,
  });
}

/** Returns the offset of libxl's stream in a save file, and the configuration before it. */
async function readHeader(path: string): Promise<{ start: number; stored: LibxlConfig }> {
  await using source = await FileSource.open(path);
  const stored = parseLibxlConfig(xlConfigText(await readXlHeader(source)));
  return { start: source.offset, stored };
}

/** Reads a cfgfile from disk. */
import { open } from 'node:fs/promises';
import { errnoCode } from '../core/errors.ts';
import type { SnapshotConfig } from './config.ts';
import { ConfigError } from './errors.ts';
import { MAX_CONFIG_BYTES, parseConfig } from './parse.ts';

/**
 * Reads and parses the cfgfile at `path`. Never reads more than the maximum size, whatever the file is.
 * @throws {ConfigError} If the file cannot be read, or anything in it is wrong.
 */
export async function readConfigFile(path: string): Promise<SnapshotConfig> {
  return parseConfig(await readBounded(path), path);
}

async function readBounded(path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(MAX_CONFIG_BYTES + 1);
  let length = 0;
  try {
    await using file = await open(path, 'r');
    while (length < bytes.length) {
      const { bytesRead } = await file.read(bytes, length, bytes.length - length, null);
      if (bytesRead === 0) break;
      length += bytesRead;
    }
  } catch (error) {
    const why: Record<string, string> = {
      ENOENT: 'there is no such file',
      EACCES: 'permission to read it is denied',
      EISDIR: 'it is a directory',
    };
    const code = errnoCode(error);
    throw new ConfigError(
      path,
      [{ code: 'UNREADABLE', message: why[code ?? ''] ?? `it cannot be read (${code ?? String(error)})` }],
      { cause: error },
    );
  }
  return bytes.subarray(0, length);
}

/** Prints a cfgfile. */
import type { DiskRequest, SnapshotConfig } from './config.ts';
import { ConfigError } from './errors.ts';
import { parseConfig } from './parse.ts';

/**
 * Prints a cfgfile that `parseConfig` reads as `config` again, except for `source`.
 * @param comment lines for the head of the file, without `#`
 * @throws {ConfigError} If no cfgfile can express it: a path with a comma, or a bad name.
 */
export function printConfig(config: SnapshotConfig, comment = ''): string {
  const lines = comment === '' ? [] : comment.split('\n').map((line) => `# ${inComment(line)}`.trimEnd());
  if (config.name !== undefined) lines.push(`name=${quote(config.name)}`);
  if (config.description !== undefined) lines.push(`description=${quote(config.description)}`);
  if (config.memoryPath !== undefined) lines.push(`memory_path=${quote(config.memoryPath)}`);
  if (config.disks !== undefined) {
    lines.push('disks=[');
    for (const disk of config.disks) {
      lines.push(`  ${quote(fieldsOf(disk).join(','))},`);
    }
    lines.push(']');
  }
  const text = `${lines.join('\n')}\n`;
  const back = parseConfig(text, config.source ?? 'configuration');
  if (!same(back, config)) {
    throw new ConfigError(config.source ?? 'configuration', [
      {
        code: 'NOT_PRINTABLE',
        message: 'a cfgfile cannot express it: a text is empty, or a path has a space at its start or end',
      },
    ]);
  }
  return text;
}

function fieldsOf(disk: DiskRequest): readonly string[] {
  if (disk.kind !== 'internal') return [disk.path, disk.format, disk.target];
  const { target, cow } = disk;
  if (cow === undefined) return ['', '', target];
  return ['', '', target, `cow=${'percent' in cow ? `${cow.percent}%` : `${cow.bytes / 1024}K`}`];
}

function same(a: SnapshotConfig, b: SnapshotConfig): boolean {
  const plain = (config: SnapshotConfig): string =>
    JSON.stringify([config.name, config.description, config.memoryPath, config.disks?.map(fieldsOf)]);
  return plain(a) === plain(b);
}

function quote(text: string): string {
  const escaped = text
    .replaceAll('\\', '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', '\\n')
    .replaceAll('\t', '\\t');
  return `"${escaped}"`;
}

/** Makes a line fit for a comment, which ends with its line; other control characters have no place in it. */
function inComment(line: string): string {
  return line.replaceAll(/\p{Cc}/gu, ' ');
}

/** Finds out where Debian packages for an image come from. */
import { existsSync, readFileSync } from 'node:fs';
import { LabError } from './errors.ts';
import { must } from './proc.ts';

/**
 * A source of Debian packages, taken from this machine's configuration, for a root file system of another
 * suite.
 */
export interface AptSource {
  /** The line for mmdebstrap: `deb [trusted=yes] URI SUITE main`. */
  readonly line: string;
  /** apt options to pass on: proxies, retries, credentials, checks. They never stay in an image. */
  readonly options: readonly string[];
}

const handedOn =
  /^(Acquire::(https?|ftp|Retries|Force|Check-|Allow|Queue|Max-|Send|By-Hash|PDiffs)|Dir::Etc::netrc)/i;

/** Reads apt's own configuration (sources in either format, apt.conf.d, auth.conf.d). */
export async function aptSource(suite: string): Promise<AptSource> {
  const targets = await must('host', 'apt-get', [
    'indextargets',
    '--no-release-info',
    '--format',
    '$(REPO_URI)\t$(RELEASE)\t$(COMPONENT)\t$(SOURCESENTRY)',
    'Created-By: Packages',
  ]);
  const entries = targets
    .split('\n')
    .map((line) => line.split('\t'))
    .map(([uri = '', release = '', component = '', entry = '']) => ({ uri, release, component, entry }));
  const plain = /^(bookworm|trixie|forky|duke|sid|stable|testing|unstable|oldstable)$/;
  const found =
    entries.find((e) => e.component === 'main' && e.release === suite) ??
    entries.find((e) => e.component === 'main' && plain.test(e.release));
  if (found === undefined) {
    throw new LabError('host', 'apt has no Debian "main" source on this machine, so a dom0 cannot be built');
  }
  const trusted = isTrusted(found.entry) ? '[trusted=yes] ' : '';
  return { line: `deb ${trusted}${found.uri} ${suite} main`, options: await aptOptions() };
}

async function aptOptions(): Promise<string[]> {
  const dump = await must('host', 'apt-config', ['dump', '--no-empty', '--format', '%F "%v";%n']);
  const options = dump.split('\n').filter((line) => handedOn.test(line) && !line.startsWith('Dir::'));
  // mmdebstrap changes Dir, so the paths of credentials must be absolute.
  const shell = await must('host', 'apt-config', [
    'shell',
    'FILE',
    'Dir::Etc::netrc/f',
    'PARTS',
    'Dir::Etc::netrcparts/d',
  ]);
  for (const [name, option] of [
    ['FILE', 'Dir::Etc::netrc'],
    ['PARTS', 'Dir::Etc::netrcparts'],
  ] as const) {
    const path = new RegExp(`^${name}='(.*)'$`, 'm').exec(shell)?.[1];
    if (path !== undefined && existsSync(path)) options.push(`${option} "${path}";`);
  }
  return options;
}

/** Returns whether the entry (`FILE:NUMBER`) says that its source is to be trusted unsigned. */
function isTrusted(entry: string): boolean {
  const file = entry.replace(/:\d+$/, '');
  if (!existsSync(file)) return false;
  const text = readFileSync(file, 'utf8');
  return file.endsWith('.sources')
    ? /^Trusted:\s*yes\s*$/im.test(text)
    : /^deb\s+\[[^\]]*\btrusted=yes\b/m.test(text);
}

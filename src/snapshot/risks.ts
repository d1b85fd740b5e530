/** The risks of a revert: their names, and what each means. */
import { UsageError } from '../core/errors.ts';
import type { ConfigChange } from '../memfile/config-changes.ts';

/**
 * Everything that makes a revert risky: its name, which `--accept` takes, and what it means. What can only do damage is
 * not a risk but an error, which nothing overrides.
 */
export const RISKS = {
  'config-changed':
    "the domain's configuration has changed since the snapshot; the revert would bring back the old one",
  'base-written':
    'the base image of an external snapshot, or a clone, has been written to since: the memory would no longer match it',
  'tag-replaced':
    'the internal snapshot of that name does not belong to the memory: it was deleted and taken again',
  'disk-resized': 'a disk no longer has the size that the guest saw at the snapshot',
  'later-snapshot': 'a later snapshot would be lost, or would no longer match its base image',
  'not-an-overlay': "the file that a fresh overlay would replace is not an overlay of the snapshot's base",
  'other-image': "a disk of the domain now has an image that is unrelated to the snapshot's",
  'disk-uncovered': 'a writable disk is not part of the snapshot: the memory would not match its newer data',
  'no-manifest':
    'the manifest beside the memory file is missing: the disks cannot be checked, and the domain is assumed to have been running',
  'xen-changed': 'the snapshot was taken on another version of Xen',
  'qemu-changed': 'the snapshot was taken with another version of QEMU',
  'memory-low': 'the restore needs more memory than is free and dom0 can spare',
} as const satisfies Readonly<Record<string, string>>;

export type RiskName = keyof typeof RISKS;

/** What to do rather than accept a risk. */
export const RISK_ADVICE: Readonly<Record<RiskName, string>> = {
  'config-changed': 'change the configuration again once the domain is back, or set it back before',
  'base-written': 'put a copy of the base back that is as it was, or start the domain from the disks alone',
  'tag-replaced': 'revert to a snapshot whose tag is still there: xlsnap snapshot-list shows them',
  'disk-resized': 'give the disk its former size again: qemu-img resize, with the domain down',
  'later-snapshot': 'if the later snapshot is of no use any more, delete it first: xlsnap snapshot-delete',
  'not-an-overlay': 'write another path for the overlay into the cfgfile',
  'other-image': 'start the domain with the disk that it had, or see whether the new one is to be kept',
  'disk-uncovered':
    'put a copy of the disk back that is of the same time; a disk that holds only data may do as it is',
  'no-manifest': 'put the manifest back beside the memory file, if there is a copy',
  'xen-changed': 'xl restore accepts memory of an older Xen, rarely of a newer one',
  'qemu-changed': 'a newer QEMU accepts the state of an older one, rarely of a newer one',
  'memory-low': 'shut other domains down, or make them smaller: xl mem-set',
};

/** Why a revert is risky. Plain data, as `--json` prints it. */
export interface Risk {
  readonly risk: RiskName;
  /** For people: what exactly was found. May have several lines. */
  readonly message: string;
  /** The disk that it is about, if it is about one. */
  readonly vdev?: string;
  /** Of `config-changed`: all that differs. */
  readonly changes?: readonly ConfigChange[];
}

/** All names, in the order of the documentation. */
export function riskNames(): readonly RiskName[] {
  return Object.keys(RISKS) as RiskName[];
}

export function isRiskName(word: string): word is RiskName {
  return Object.hasOwn(RISKS, word);
}

/**
 * The names in a list such as `config-changed,base-written`; none twice.
 * @throws {UsageError} If a word is not a name (`UNKNOWN_RISK`)
 */
export function parseRiskNames(words: readonly string[]): readonly RiskName[] {
  const names = words.flatMap((word) => word.split(',').map((name) => name.trim()));
  const unknown = names.find((name) => !isRiskName(name));
  if (unknown !== undefined) {
    throw new UsageError('UNKNOWN_RISK', `unknown risk "${unknown}"`, {
      hint: `the risks are ${riskNames().join(', ')}`,
    });
  }
  return [...new Set(names.filter(isRiskName))];
}

/** Describes each risk in a list, with what to do rather than accept it. */
export function listRisks(risks: readonly Risk[]): string {
  return risks
    .flatMap((one, at) => {
      const again = risks.slice(at + 1).some(({ risk }) => risk === one.risk);
      return [`  - ${describeRisk(one)}`, ...(again ? [] : [`    instead: ${RISK_ADVICE[one.risk]}`])];
    })
    .join('\n');
}

/** `config-changed: …`, for texts. */
export function describeRisk({ risk, message }: Risk): string {
  return `${risk}: ${message}`;
}

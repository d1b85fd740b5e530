/** Compares two configurations of a domain. */

import { isRecord } from '../core/guards.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import type { LibxlConfig } from './libxl-config.ts';
import { plainLibxlJson } from './libxl-json.ts';

/** One key whose value differs. Plain data, as `--json` prints it. */
export interface ConfigChange {
  /** Where it is: `b_info.max_memkb`, `disks.xvda.readwrite`, `nics.0.bridge`. */
  readonly key: string;
  /** Its value at the snapshot; absent when the key was. */
  readonly before?: unknown;
  /** Its value now; absent when the key is. */
  readonly now?: unknown;
}

/**
 * Keys that differ between two lives of one domain although nobody has changed its configuration, with `*` for any disk or
 * device, and all that is below them. What `xl list -l` prints is what `xl create` stored, and over that what
 * libxl_retrieve_domain_configuration (libxl_domain.c) asks Xen, xenstore and QEMU at that moment: uuid, memory target,
 * vCPUs online, scheduler, xenstore's quota. Without `uuid=` xl makes a new uuid with each create, and a new id of
 * `ms_vm_genid="generate"`. Which images the disks have is checked by itself.
 */
const BY_ITSELF: ReadonlySet<string> = new Set([
  'c_info.domid',
  'c_info.uuid',
  'b_info.avail_vcpus',
  'b_info.target_memkb',
  'b_info.sched_params',
  'b_info.xenstore_quota',
  'b_info.type.hvm.ms_vm_genid',
  'disks.*.pdev_path',
  'disks.*.format',
]);

/** What libxl makes up for a nic without `mac=` (libxl_nic.c): Xen's prefix, then a number below 0x80. */
const GENERATED_MAC = /^00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}$/i;

/** Longest text of one value. */
const MAX_VALUE = 60;

/**
 * What differs between two configurations of a domain, less what differs by itself. Keys that are empty or absent are the
 * same, as libxl prints no defaults.
 * @param before as in the memory file's header
 * @param now as `xl list -l` gives it
 */
export function configChanges(before: LibxlConfig, now: LibxlConfig): readonly ConfigChange[] {
  const changes: ConfigChange[] = [];
  compare([], [], before, now, changes);
  return changes;
}

/**
 * @param path for people, and `rule`, with `*` in the place of which element of a list it is
 */
function compare(
  path: readonly string[],
  rule: readonly string[],
  before: unknown,
  now: unknown,
  changes: ConfigChange[],
): void {
  if (BY_ITSELF.has(rule.join('.'))) return;
  if (isStruct(before, now)) {
    for (const key of keysOf(before, now)) {
      compare([...path, key], [...rule, key], own(before, key), own(now, key), changes);
    }
  } else if (isStructs(before, now)) {
    const [then, since] = identifyItems(before, now);
    for (const name of new Set([...then.keys(), ...since.keys()])) {
      const [former, present] = [then.get(name), since.get(name)];
      if (former === undefined || present === undefined) {
        changes.push(changeOf([...path, name], former, present));
      } else {
        compare([...path, name], [...rule, '*'], former, present, changes);
      }
    }
  } else if (!isSame(before, now) && !isGenerated(rule, before, now)) {
    changes.push(changeOf(path, before, now));
  }
}

function isGenerated(rule: readonly string[], before: unknown, now: unknown): boolean {
  if (rule.join('.') !== 'nics.*.mac') return false;
  return [before, now].every((mac) => typeof mac === 'string' && GENERATED_MAC.test(mac));
}

function changeOf(path: readonly string[], before: unknown, now: unknown): ConfigChange {
  const plain = (value: unknown): unknown => (value === undefined ? undefined : plainLibxlJson(value));
  return omitUndefined({ key: path.join('.'), before: plain(before), now: plain(now) });
}

type Json = Readonly<Record<string, unknown>>;

/** Objects both, or one of them and nothing. */
function isStruct(before: unknown, now: unknown): boolean {
  return (
    (isRecord(before) || isRecord(now)) && [before, now].every((side) => isRecord(side) || isEmpty(side))
  );
}

/** Lists of objects both, or one of them and nothing. */
function isStructs(before: unknown, now: unknown): boolean {
  const lists = [before, now].filter((list) => !isEmpty(list));
  return lists.length > 0 && lists.every((list) => Array.isArray(list) && list.every(isRecord));
}

function keysOf(before: unknown, now: unknown): readonly string[] {
  return [...new Set([before, now].flatMap((side) => (isRecord(side) ? Object.keys(side) : [])))];
}

function own(value: unknown, key: string): unknown {
  return isRecord(value) && Object.hasOwn(value, key) ? value[key] : undefined;
}

/** The elements of both lists by a name that they have in both: vdev or devid where each has its own, else their place. */
function identifyItems(before: unknown, now: unknown): readonly [Map<string, Json>, Map<string, Json>] {
  const lists = [before, now].map((side): readonly Json[] => (Array.isArray(side) ? side : [])) as [
    readonly Json[],
    readonly Json[],
  ];
  const key = ['vdev', 'devid'].find((name) => lists.every((list) => isOwn(list, name)));
  const byName = (list: readonly Json[]): Map<string, Json> =>
    new Map(list.map((item, at) => [key === undefined ? String(at) : String(item[key]), item]));
  return [byName(lists[0]), byName(lists[1])];
}

function isOwn(list: readonly Json[], key: string): boolean {
  const names = list.map((item) => own(item, key));
  const usable = names.every((name) => typeof name === 'string' || typeof name === 'number');
  return usable && new Set(names.map(String)).size === names.length;
}

/** libxl leaves out what has its default. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  if (Array.isArray(value)) return value.length === 0;
  return isRecord(value) && Object.values(value).every(isEmpty);
}

function isSame(before: unknown, now: unknown): boolean {
  if (isEmpty(before) || isEmpty(now)) return isEmpty(before) && isEmpty(now);
  return JSON.stringify(before) === JSON.stringify(now);
}

/** One line for each of the first `most` changes, and how many more there are. */
export function describeChanges(changes: readonly ConfigChange[], most: number): readonly string[] {
  const lines = changes
    .slice(0, most)
    .map(({ key, before, now }) => `${key}: ${describeValue(before)} -> ${describeValue(now)}`);
  const left = changes.length - lines.length;
  return left === 0 ? lines : [...lines, `and ${left} more`];
}

function describeValue(value: unknown): string {
  if (value === undefined) return '(none)';
  const text = JSON.stringify(value);
  return text.length <= MAX_VALUE ? text : `${text.slice(0, MAX_VALUE - 1)}…`;
}

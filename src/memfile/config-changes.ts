/** Compares two configurations of a domain. */

import { isRecord } from '../core/guards.ts';
import { omitUndefined } from '../core/omit-undefined.ts';
import type { LibxlConfig } from './libxl-config.ts';
import { plainLibxlJson } from './libxl-json.ts';

/** A key whose value differs. Plain data, as `--json` prints it. */
export interface ConfigChange {
  /** Path of the key: `b_info.max_memkb`, `disks.xvda.readwrite`, `nics.0.bridge`. */
  readonly key: string;
  /** The value at the snapshot; absent if there was none. */
  readonly before?: unknown;
  /** The value now; absent if there is none. */
  readonly now?: unknown;
}

/**
 * Keys that differ between two lives of a domain although nobody has changed its configuration, and
 * everything below them; `*` stands for any disk or device. `xl list -l` prints what `xl create` stored,
 * overridden by what libxl_retrieve_domain_configuration (libxl_domain.c) gets from Xen, xenstore and QEMU at
 * that moment: uuid, memory target, online vCPUs, scheduler, xenstore's quota. Without `uuid=`, xl generates
 * a new uuid at each create, as it does the id of `ms_vm_genid="generate"`. The images of the disks are
 * checked separately.
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

/**
 * The address that libxl generates for a nic without `mac=` (libxl_nic.c): Xen's prefix, then a number below
 * 0x80.
 */
const GENERATED_MAC = /^00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}$/i;

/** Maximum length of the text of one value. */
const MAX_VALUE = 60;

/**
 * Returns what differs between two configurations of a domain, without what differs by itself. An empty key
 * equals an absent one, as libxl prints no defaults.
 * @param before as in the memory file's header
 * @param now as `xl list -l` prints it
 */
export function configChanges(before: LibxlConfig, now: LibxlConfig): readonly ConfigChange[] {
  const changes: ConfigChange[] = [];
  compare([], [], before, now, changes);
  return changes;
}

/**
 * Compares two values, and what is below them.
 * @param path for people
 * @param rule the same path with `*` for the index of a list
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

/** Returns whether both are objects, or one is and the other is absent. */
function isStruct(before: unknown, now: unknown): boolean {
  return (
    (isRecord(before) || isRecord(now)) && [before, now].every((side) => isRecord(side) || isEmpty(side))
  );
}

/** Returns whether both are lists of objects, or one is and the other is absent. */
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

/**
 * Returns the elements of both lists by a name that they share: vdev or devid if it is unique in each list,
 * else the index.
 */
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

/** Returns whether a value is empty; libxl leaves out what has its default. */
function isEmpty(value: unknown): boolean {
  if (value === undefined || value === null) return true;
  if (Array.isArray(value)) return value.length === 0;
  return isRecord(value) && Object.values(value).every(isEmpty);
}

function isSame(before: unknown, now: unknown): boolean {
  if (isEmpty(before) || isEmpty(now)) return isEmpty(before) && isEmpty(now);
  return JSON.stringify(before) === JSON.stringify(now);
}

/** Describes each of the first `most` changes in one line, then how many more there are. */
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

import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { configChanges } from '../../src/memfile/config-changes.ts';
import type { LibxlConfig } from '../../src/memfile/libxl-config.ts';

const scalar = fc.oneof(fc.integer(), fc.boolean(), fc.stringMatching(/^[a-z/]{1,8}$/));
const name = fc.stringMatching(/^[a-z_]{1,6}$/);
const plain = fc.dictionary(name, fc.oneof(scalar, fc.array(scalar, { maxLength: 3 })), { maxKeys: 4 });

/** A configuration with the parts that libxl fills in, and others of any kind. */
const config: fc.Arbitrary<Record<string, Record<string, unknown> | Record<string, unknown>[]>> = fc.record({
  c_info: plain,
  b_info: plain,
  disks: fc
    .uniqueArray(plain, { maxLength: 3 })
    .map((all) => all.map((one, at) => ({ ...one, vdev: `xvd${'abc'[at]}` }))),
  nics: fc.array(plain, { maxLength: 3 }).map((all) => all.map((one, devid) => ({ ...one, devid }))),
  other: fc.dictionary(name, plain, { maxKeys: 3 }),
});

/** What differs from one life of a domain to the next, whoever created it. */
const byItself = fc.record({
  uuid: fc.uuid(),
  domid: fc.nat(32751),
  target: fc.nat(),
  vcpus: fc.array(fc.nat(127), { maxLength: 4 }),
  sched: plain,
  path: fc.stringMatching(/^\/[a-z]{1,8}$/),
  mac: fc.stringMatching(/^00:16:3e:[0-7][0-9a-f]:[0-9a-f]{2}:[0-9a-f]{2}$/),
});

type Life = typeof byItself extends fc.Arbitrary<infer T> ? T : never;

function lived(
  of: { c_info: object; b_info: object; disks: object[]; nics: object[] },
  life: Life,
): LibxlConfig {
  return {
    ...of,
    c_info: { ...of.c_info, uuid: life.uuid, domid: life.domid },
    b_info: { ...of.b_info, target_memkb: life.target, avail_vcpus: life.vcpus, sched_params: life.sched },
    disks: of.disks.map((disk) => ({ ...disk, pdev_path: life.path, format: life.path.slice(1) })),
    nics: of.nics.map((nic) => ({ ...nic, mac: life.mac })),
  };
}

type Parts = Parameters<typeof lived>[0];

test.prop([config, byItself, byItself])('two lives of one domain do not differ', (of, one, other) => {
  const parts = of as unknown as Parts;
  expect(configChanges(lived(parts, one), lived(parts, one))).toEqual([]);
  expect(configChanges(lived(parts, one), lived(parts, other))).toEqual([]);
});

test.prop([
  config,
  byItself,
  byItself,
  fc.constantFrom('c_info', 'b_info', 'disks', 'nics', 'other'),
  fc.nat(),
  scalar,
])(
  'any other key that is added or changed is the one that is named',
  (of, one, other, part, which, value) => {
    const before = lived(of as unknown as Parts, one);
    const now = lived(structuredClone(of) as unknown as Parts, other);
    const within = now[part] as Record<string, unknown> | Record<string, unknown>[];
    if (Array.isArray(within) && within.length === 0) return;
    const at = Array.isArray(within) ? which % within.length : 0;
    const target = Array.isArray(within) ? within[at] : within;
    const element = Array.isArray(within) ? [part === 'disks' ? `xvd${'abc'[at]}` : String(at)] : [];
    (target as Record<string, unknown>)['a key of its own'] = value;
    const changes = configChanges(before, now);
    expect(changes).toEqual([{ key: [part, ...element, 'a key of its own'].join('.'), now: value }]);
    expect(configChanges(now, before)).toEqual([{ key: changes[0]?.key, before: value }]);
  },
);

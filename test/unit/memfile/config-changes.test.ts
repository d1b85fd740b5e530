import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { BufferSource } from '../../../src/core/byte-source.ts';
import { configChanges, describeChanges } from '../../../src/memfile/config-changes.ts';
import { type LibxlConfig, parseLibxlConfig } from '../../../src/memfile/libxl-config.ts';
import { readXlHeader, xlConfigText } from '../../../src/savefmt/index.ts';

/** A domain with several kinds of devices, as xl prints it. */
const TEXT = JSON.stringify({
  c_info: { type: 'hvm', name: 'guest1', uuid: '3f8d2c1e-1111-4222-8333-444455556666', domid: 7 },
  b_info: {
    max_vcpus: 4,
    avail_vcpus: [0, 1, 2, 3],
    max_memkb: 262144,
    target_memkb: 262144,
    sched_params: { sched: 'credit2', weight: 256, cap: 0 },
    kernel: '/boot/guest',
    'type.hvm': {
      vga: { kind: 'none' },
      spice: {},
      ms_vm_genid: [1, 2, 3],
      serial_list: ['pty', '/dev/ttyS0'],
    },
  },
  disks: [
    { vdev: 'xvda', pdev_path: '/i/a', format: 'qcow2', readwrite: 1 },
    { vdev: 'xvdb', pdev_path: '/i/b', format: 'raw', readwrite: 1 },
  ],
  nics: [
    { devid: 0, mac: '00:16:3e:12:34:56', bridge: 'xenbr0' },
    { devid: 1, mac: '52:54:00:00:00:01', bridge: 'xenbr0' },
  ],
  on_crash: 'restart',
});
const CONFIG = parseLibxlConfig(TEXT);

/** Returns the same with one text replaced by another. */
function replaced(...pairs: readonly (readonly [string, string])[]): LibxlConfig {
  let text = TEXT;
  for (const [from, to] of pairs) {
    if (!text.includes(from)) throw new Error(`no ${from}`);
    text = text.replace(from, to);
  }
  return parseLibxlConfig(text);
}

const UUID = ['3f8d2c1e-1111', 'b0c49775-1111'] as const;
const MAC = ['00:16:3e:12:34:56', '00:16:3e:7f:00:01'] as const;

describe('not a change', () => {
  it.each<[string, LibxlConfig]>([
    ['the same', CONFIG],
    ['another order of keys', Object.fromEntries(Object.entries(CONFIG).reverse())],
    [
      'the uuid, MAC and domid that the next xl create gives it',
      replaced(UUID, MAC, ['"domid":7', '"domid":9']),
    ],
    ['the MAC that the next xl create gives it, where the uuid is in its file', replaced(MAC)],
    ['no domid', replaced([',"domid":7', ''])],
    ['an id that ms_vm_genid="generate" makes up', replaced(['[1,2,3]', '[3,2,1]'])],
    ['xl mem-set', replaced(['"target_memkb":262144', '"target_memkb":131072'])],
    ['xl vcpu-set', replaced(['[0,1,2,3]', '[0]'])],
    ['xl sched-credit2', replaced(['"weight":256', '"weight":512'], ['"cap":0', '"cap":50'])],
    ['another scheduler', replaced(['"credit2","weight":256,"cap":0', '"rtds","period":1,"budget":2'])],
    ['images and their formats', replaced(['/i/a', '/i/overlay'], ['"raw"', '"qcow2"'])],
    ['the order of the disks', { ...CONFIG, disks: [...(CONFIG['disks'] as unknown[])].reverse() }],
    ['keys that are empty', { ...CONFIG, vfbs: [], arch_arm: {}, arch_x86: { empty: {} } }],
    [
      'a quota of xenstore, which libxl asks for',
      replaced(['"max_vcpus"', '"xenstore_quota":{"quota":[]},"max_vcpus"']),
    ],
  ])('%s', (_what, now) => {
    expect(configChanges(CONFIG, now)).toEqual([]);
    expect(configChanges(now, CONFIG)).toEqual([]);
  });

  it.each(['pv', 'pvh', 'hvm'])('what real Xen wrote of one %s domain and of its next life', async (type) => {
    const bytes = gunzipSync(readFileSync(`fixtures/savefmt/${type}.xlsave.gz`));
    const text = xlConfigText(await readXlHeader(new BufferSource(bytes)));
    const before = parseLibxlConfig(text);
    const uuid = /"uuid": "([0-9a-f-]+)"/.exec(text)?.[1] ?? '';
    const next = text
      .replace(uuid, UUID[1].padEnd(36, '0'))
      .replace('"target_memkb": 86016', '"target_memkb": 65536');
    expect(next).not.toBe(text);
    expect(configChanges(before, parseLibxlConfig(next))).toEqual([]);
    const larger = parseLibxlConfig(text.replace('"max_memkb": 86016', '"max_memkb": 90112'));
    expect(configChanges(before, larger)).toEqual([{ key: 'b_info.max_memkb', before: 86016, now: 90112 }]);
  });
});

describe('a change', () => {
  it.each<[string, LibxlConfig, string]>([
    [
      'the most memory',
      replaced(['"max_memkb":262144', '"max_memkb":131072']),
      'b_info.max_memkb: 262144 -> 131072',
    ],
    ['the name', replaced(['"guest1"', '"guest2"']), 'c_info.name: "guest1" -> "guest2"'],
    [
      'a kernel that is not given any more',
      replaced([',"kernel":"/boot/guest"', '']),
      'b_info.kernel: "/boot/guest" -> (none)',
    ],
    [
      'a list of words',
      replaced(['"pty",', '']),
      'b_info.type.hvm.serial_list: ["pty","/dev/ttyS0"] -> ["/dev/ttyS0"]',
    ],
    [
      'a disk that is read-only now',
      replaced(['"raw","readwrite":1', '"raw"']),
      'disks.xvdb.readwrite: 1 -> (none)',
    ],
    ['another bridge', replaced(['"xenbr0"}]', '"xenbr1"}]']), 'nics.1.bridge: "xenbr0" -> "xenbr1"'],
    [
      'a MAC of one’s own',
      replaced(['52:54:00:00:00:01', '52:54:00:00:00:02']),
      'nics.1.mac: "52:54:00:00:00:01" -> "52:54:00:00:00:02"',
    ],
    [
      'a MAC that libxl does not make up',
      replaced([MAC[0], '00:16:3e:80:00:01']),
      'nics.0.mac: "00:16:3e:12:34:56" -> "00:16:3e:80:00:01"',
    ],
    [
      'a MAC that was one’s own',
      replaced([MAC[0], '52:54:00:00:00:09']),
      'nics.0.mac: "00:16:3e:12:34:56" -> "52:54:00:00:00:09"',
    ],
    [
      'what happens after a crash',
      replaced(['"on_crash":"restart"', '"on_crash":"destroy"']),
      'on_crash: "restart" -> "destroy"',
    ],
    ['a device more', { ...CONFIG, vkbs: [{}] }, 'vkbs.0: (none) -> {}'],
    [
      'something else altogether',
      { ...CONFIG, disks: 'none' },
      'disks: [{"vdev":"xvda","pdev_path":"/i/a","format":"qcow2","readwr… -> "none"',
    ],
  ])('%s', (_what, now, line) => {
    const changes = configChanges(CONFIG, now);
    expect(describeChanges(changes, 5)).toEqual([line]);
    expect(configChanges(now, CONFIG)).toEqual(
      changes.map(({ key, ...rest }) => ({
        key,
        ...('now' in rest ? { before: rest.now } : {}),
        ...('before' in rest ? { now: rest.before } : {}),
      })),
    );
  });

  it('a removed disk or network card, without accusing those after it', () => {
    const now = {
      ...CONFIG,
      disks: (CONFIG['disks'] as unknown[]).slice(1),
      nics: (CONFIG['nics'] as unknown[]).slice(1),
    };
    expect(configChanges(CONFIG, now)).toEqual([
      { key: 'disks.xvda', before: { vdev: 'xvda', pdev_path: '/i/a', format: 'qcow2', readwrite: 1 } },
      { key: 'nics.0', before: { devid: 0, mac: MAC[0], bridge: 'xenbr0' } },
    ]);
  });

  it('devices without a name of their own are distinguished by their index', () => {
    const channels = (...names: string[]): LibxlConfig => ({
      channels: names.map((name) => ({ devid: 0, name })),
    });
    expect(describeChanges(configChanges(channels('a', 'b'), channels('a', 'c')), 5)).toEqual([
      'channels.1.name: "b" -> "c"',
    ]);
  });

  it('integers beyond 53 bits are compared and shown with all their digits', () => {
    const of = (digits: string): LibxlConfig => parseLibxlConfig(`{"b_info":{"mca_caps":${digits}}}`);
    expect(configChanges(of('18446744073709551615'), of('18446744073709551614'))).toEqual([
      { key: 'b_info.mca_caps', before: '18446744073709551615', now: '18446744073709551614' },
    ]);
    expect(configChanges(of('18446744073709551615'), of('18446744073709551615'))).toEqual([]);
  });

  it('the first of many are described and the rest counted', () => {
    const changes = configChanges(CONFIG, {});
    const lines = describeChanges(changes, 3);
    expect(lines).toHaveLength(4);
    expect(lines[3]).toBe(`and ${changes.length - 3} more`);
    expect(describeChanges(changes.slice(0, 3), 3)).toHaveLength(3);
  });

  it('keys that every object has are keys like any other', () => {
    const odd = parseLibxlConfig('{"__proto__":{"constructor":1},"c_info":{"toString":2}}');
    expect(configChanges(odd, {}).map(({ key }) => key)).toEqual([
      '__proto__.constructor',
      'c_info.toString',
    ]);
  });
});

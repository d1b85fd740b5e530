import { expect, it } from 'vitest';
import { guestConfig, guestFiles, parseDisk, parseList } from '../../../lab/guests.ts';

const config = (...args: Parameters<typeof guestConfig>): Record<string, string> =>
  Object.fromEntries(
    guestConfig(...args)
      .trim()
      .split('\n')
      .map((line) => line.split(/ = (.*)/s).slice(0, 2) as [string, string]),
  );

it('a guest has its disks, and its counter waits for those that it may write to', () => {
  const lines = config({
    type: 'pvh',
    name: 'g1',
    disks: [
      { vdev: 'xvda', format: 'qcow2', sizeMiB: 64 },
      { vdev: 'xvdb', format: 'raw', sizeMiB: 1, path: '/x/b, 1.raw', readOnly: true },
    ],
    tickMs: 20,
    dirty: { mib: 8, rate: 100 },
    extraCfg: ['cpuid = "x"'],
  });
  expect(lines).toMatchObject({ name: '"g1"', type: '"pvh"', memory: '128', maxmem: '128', vcpus: '1' });
  expect(lines['disk']).toBe(
    '[ "format=qcow2,vdev=xvda,access=rw,backendtype=qdisk,target=/lab/guests/g1/xvda.qcow2", ' +
      '"format=raw,vdev=xvdb,access=ro,backendtype=qdisk,target=/x/b, 1.raw" ]',
  );
  expect(lines['extra']).toContain('counter.ms=20 counter.disks=1 dirty.mib=8 dirty.rate=100');
  expect(lines['extra']).not.toMatch(/ {2}|earlyprintk/);
  expect(lines['on_reboot']).toBe('"preserve"');
  expect(lines['cpuid']).toBe('"x"');
});

it.each([
  ['hvm', '"/lab/vmlinuz"', true],
  ['pv', '"/lab/vmlinux"', false],
] as const)('a guest of type %s has its kernel', (type, kernel, vga) => {
  const lines = config({ type, name: 'g' });
  expect(lines['kernel']).toBe(kernel);
  expect(lines['disk']).toBe('[  ]');
  expect('vga' in lines).toBe(vga);
});

it.each([
  { type: 'pv', name: '../x' } as const,
  { type: 'pv', name: '1' } as const,
  { type: 'pv', name: 'g', disks: [{ vdev: 'hda', format: 'raw', sizeMiB: 1 }] } as const,
])('%o is refused', (spec) => {
  expect(() => guestFiles(spec)).toThrow(expect.objectContaining({ code: 'usage' }));
});

it('disks of the command line are parsed', () => {
  expect(parseDisk('xvdc')).toEqual({ vdev: 'xvdc', format: 'qcow2', sizeMiB: 64 });
  expect(parseDisk('xvdc:raw:8')).toEqual({ vdev: 'xvdc', format: 'raw', sizeMiB: 8 });
  for (const bad of ['xvda:vhd:8', 'xvda:raw:0', 'xvda:raw:8:9', 'xvda:raw:8M']) {
    expect(() => parseDisk(bad)).toThrow('expected VDEV:FORMAT:MIB');
  }
});

it('the output of xl list is parsed', () => {
  const list = parseList(
    [
      'Name                                        ID   Mem VCPUs\tState\tTime(s)',
      'Domain-0                                     0  1024     2     r-----      41.9',
      'g1                                           3   128     1     --p---       0.0',
      '(null)                                       4     0     1     --ps-d       0.1',
      'broken line',
    ].join('\n'),
  );
  expect([...list]).toEqual([
    ['Domain-0', { domid: 0, flags: 'r' }],
    ['g1', { domid: 3, flags: 'p' }],
    ['(null)', { domid: 4, flags: 'psd' }],
  ]);
});

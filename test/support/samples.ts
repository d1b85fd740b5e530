/** Samples of what xlsnap reads that more than one test needs. */
import type { Manifest } from '../../src/memfile/manifest.ts';

export const MANIFEST: Manifest = {
  format: 'xlsnap-manifest',
  version: 1,
  name: 's1',
  description: 'two\nlines',
  created: '2026-11-23T22:00:00.000Z',
  state: 'paused',
  domain: 'guest1',
  uuid: '3f8d2c1e-1111-4222-8333-444455556666',
  type: 'hvm',
  xen: { major: 4, minor: 20, extra: '.1' },
  memory: { path: '/s/s1.save', bytes: 4096, pages: 1 },
  checksums: { algorithm: 'crc32', head: 1024, stretch: 65_536, sums: '0123abcd00000000' },
  disks: [
    { kind: 'internal', vdev: 'xvda', image: '/i/a', tag: 's1' },
    { kind: 'external', vdev: 'xvdb', base: '/i/b', baseFormat: 'raw', overlay: '/i/b1' },
  ],
  uncovered: ['xvdc'],
  phases: [{ name: 'memory', seconds: 1.5 }],
};

/** Tokens of a cfgfile, and some that do not belong in one. */
export const CFGFILE_WORDS = [
  'name',
  'disks',
  'memory_path',
  'description',
  '__proto__',
  'toString',
  '=',
  '+=',
  '[',
  ']',
  ',',
  ';',
  '\n',
  ' ',
  '#',
  '"',
  "'",
  '\\',
  '"/a"',
  "',,xvda'",
  '7',
  '0x',
] as const;

import { fc, test } from '@fast-check/vitest';
import { expect } from 'vitest';
import { matchDisks } from '../../src/toolstack/qemu/disks.ts';
import { vdevToDevid } from '../../src/toolstack/qemu/vdev.ts';

const file = fc.constantFrom('/g/a', '/g/b', '/g/c');
const vdev = fc.constantFrom('xvda', 'xvdb', 'hda');
const node = fc.record({
  nodeName: fc.constantFrom(
    'xvda-qcow2',
    'xvdb-raw',
    'hda-qcow2',
    'xlsnap-xvda-1',
    'snap1',
    '#block1',
    '#block2',
  ),
  driver: fc.constantFrom('qcow2', 'raw'),
  file,
  readOnly: fc.boolean(),
  encrypted: fc.boolean(),
  externalData: fc.boolean(),
  backingFiles: fc.array(file, { maxLength: 2 }),
  tags: fc.constant([]),
  virtualSize: fc.constant(1),
});
const graph = fc.uniqueArray(node, { selector: ({ nodeName }) => nodeName, maxLength: 5 }).chain((nodes) =>
  fc.record({
    nodes: fc.constant(nodes),
    devices: fc.tuple(
      ...nodes.map((inserted) =>
        fc.constantFrom('', 'ide0-hd0').map((device) => ({ device, qdev: undefined, inserted })),
      ),
    ),
    jobs: fc.constantFrom([], ['job']),
  }),
);
const stored = fc
  .uniqueArray(
    fc.record({
      vdev,
      kind: fc.constantFrom('qdisk', 'qdisk', 'vbd'),
      domid: fc.constantFrom(0, 0, 3),
      image: fc.option(
        file.map((path) => ({ path, format: 'qcow2' })),
        { nil: undefined },
      ),
      writable: fc.boolean(),
      cdrom: fc.boolean(),
    }),
    { selector: (disk) => disk.vdev },
  )
  .map((disks) =>
    disks.map(({ kind, domid, ...disk }) => ({
      ...disk,
      devid: vdevToDevid(disk.vdev) ?? -1,
      backend: { kind, domid, path: '' },
    })),
  );

test.prop([stored, fc.option(graph, { nil: undefined })])(
  'a disk that can be snapshotted is one writable node of a QEMU disk that nobody else writes to',
  (disks, facts) => {
    for (const disk of matchDisks([], disks, facts)) {
      if (disk.external.length > 0) {
        expect(disk.internal.length).toBeGreaterThan(0);
        continue;
      }
      expect(disk).toMatchObject({ writable: true, cdrom: false, backend: { kind: 'qdisk', domid: 0 } });
      const [used, ...others] = facts?.nodes.filter((one) => one.nodeName === disk.node) ?? [];
      expect(others).toEqual([]);
      expect(used).toMatchObject({ readOnly: false, encrypted: false, file: disk.path });
      expect(
        facts?.nodes.filter((one) => !one.readOnly && one.file === used?.file && one.driver === used.driver),
      ).toHaveLength(1);
      expect(facts?.jobs).toEqual([]);
      if (disk.internal.length === 0) expect(used).toMatchObject({ driver: 'qcow2', externalData: false });
    }
  },
);

test.prop([stored, graph])('the order of QEMU’s answers does not matter', (disks, facts) => {
  const turned = { ...facts, devices: [...facts.devices].reverse(), nodes: [...facts.nodes].reverse() };
  const names = (some: ReturnType<typeof matchDisks>): unknown =>
    some.map(({ node: name, path, internal }) => [name, path, internal.map(({ code }) => code)]);
  expect(names(matchDisks([], disks, turned))).toEqual(names(matchDisks([], disks, facts)));
});

import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { ConfigDisk } from '../../../../src/memfile/libxl-config.ts';
import type { BlockDevice, BlockNode } from '../../../../src/qmp/commands.ts';
import {
  type BlockFacts,
  externalAction,
  internalAction,
  matchDisks,
  type ResolvedDisk,
  readStoredDisks,
  type StoredDisk,
} from '../../../../src/toolstack/qemu/disks.ts';
import { plainPath } from '../../../../src/toolstack/qemu/images.ts';
import { vdevToDevid } from '../../../../src/toolstack/qemu/vdev.ts';
import { XenstoreClient } from '../../../../src/xenstore/client.ts';
import { FakeXenstored } from '../../../../src/xenstore/testing.ts';
import { blockNode } from '../../../support/block-node.ts';
import { tempDir } from '../../../support/temp.ts';

it.each(['json:{', 'json:', 'json:[]', 'json:{"file":{"file":{}}}', `json:${'['.repeat(100_000)}`])(
  'a file name of QEMU’s that is not JSON, %.20s, is not the name of any path',
  (name) => expect(plainPath(name)).toBe(name),
);

const configured = (vdev: string, more: Partial<ConfigDisk> = {}): ConfigDisk => ({
  vdev,
  path: `/g/${vdev}.qcow2`,
  format: 'qcow2',
  writable: true,
  cdrom: false,
  ...more,
});

const stored = (vdev: string, more: Partial<StoredDisk> = {}, kind = 'qdisk', domid = 0): StoredDisk => {
  const devid = vdevToDevid(vdev) ?? -1;
  return {
    vdev,
    devid,
    backend: { kind, domid, path: `/local/domain/${domid}/backend/${kind}/5/${devid}` },
    image: { path: `/g/${vdev}.qcow2`, format: 'qcow2' },
    writable: true,
    cdrom: false,
    ...more,
  };
};

/** QEMU's drives: xen-block's have no device name, emulated ones have. */
const facts = (
  drives: readonly (BlockNode | [string, BlockNode])[],
  more: Partial<BlockFacts> = {},
): BlockFacts => {
  const devices: BlockDevice[] = drives.map((drive) =>
    Array.isArray(drive)
      ? { device: drive[0], qdev: '/machine/unattached/device[5]', inserted: drive[1] }
      : { device: '', qdev: '/machine/unattached/device[2]', inserted: drive },
  );
  const tops = devices.flatMap(({ inserted }) => (inserted === undefined ? [] : [inserted]));
  const files = tops.map((top, i) => blockNode(`#block${i}`, top.file, { driver: 'file' }));
  return { devices, nodes: [...tops, ...files], jobs: [], ...more };
};

const codes = (disk: ResolvedDisk | undefined): [string[], string[]] => [
  (disk?.internal ?? []).map(({ code }) => code),
  (disk?.external ?? []).map(({ code }) => code),
];

const xvda = blockNode('xvda-qcow2', '/g/xvda.qcow2');

describe('a disk that can be snapshotted', () => {
  it('is the node that xen-block created', () => {
    const [disk] = matchDisks([configured('xvda')], [stored('xvda')], facts([xvda]));
    expect(disk).toEqual({
      vdev: 'xvda',
      devid: 51712,
      writable: true,
      cdrom: false,
      path: '/g/xvda.qcow2',
      format: 'qcow2',
      backend: { kind: 'qdisk', domid: 0, path: '/local/domain/0/backend/qdisk/5/51712' },
      node: 'xvda-qcow2',
      overlayNode: 'xlsnap-xvda-1',
      internal: [],
      external: [],
    });
    expect(disk && internalAction(disk, 's1')).toEqual({
      type: 'blockdev-snapshot-internal-sync',
      data: { device: 'xvda-qcow2', name: 's1' },
    });
    expect(disk && externalAction(disk, '/g/o.qcow2')).toEqual({
      type: 'blockdev-snapshot-sync',
      data: {
        'node-name': 'xvda-qcow2',
        'snapshot-file': '/g/o.qcow2',
        format: 'qcow2',
        'snapshot-node-name': 'xlsnap-xvda-1',
      },
    });
  });

  it('is the emulated drive if there is no other', () => {
    const drive = blockNode('#block159', '/g/hda.qcow2');
    const [disk] = matchDisks([configured('hda')], [stored('hda')], facts([['ide0-hd0', drive]]));
    expect(disk).toMatchObject({ node: '#block159', devid: 768, internal: [], external: [] });
  });

  it.each([
    ['our overlay', 'xlsnap-xvda-1', '/g/xvda.qcow2'],
    ['our overlay, and xenstore follows', 'xlsnap-xvda-1', '/g/over.qcow2'],
    ["another tool's overlay", 'snap1', '/g/xvda.qcow2'],
    ["another tool's overlay, and xenstore follows", 'snap1', '/g/over.qcow2'],
  ])('can have %s', (_, name, params) => {
    const base = blockNode('xvda-qcow2', '/g/xvda.qcow2', { readOnly: true });
    const overlay = blockNode(name, '/g/over.qcow2', { backingFiles: ['/g/xvda.qcow2'] });
    const { devices, nodes } = facts([overlay]);
    const image = { path: params, format: 'qcow2' };
    const [disk] = matchDisks([configured('xvda')], [stored('xvda', { image })], {
      devices,
      nodes: [...nodes, base],
      jobs: [],
    });
    expect(disk).toMatchObject({ node: name, path: '/g/over.qcow2', internal: [], external: [] });
    expect(disk?.overlayNode).toBe(name === 'snap1' ? 'xlsnap-xvda-1' : 'xlsnap-xvda-2');
  });

  it('can be on an image that was opened as a backing file, whatever xenstore names: the device says its name', () => {
    const drive = {
      device: '',
      qdev: '/machine/unattached/device[2]',
      inserted: blockNode('#block1', '/g/e1'),
    };
    const image = { path: '/g/e2', format: 'qcow2' };
    const match = (vdev?: string): ResolvedDisk | undefined =>
      matchDisks([configured('xvda')], [stored('xvda', { image })], {
        ...facts([]),
        devices: [{ ...drive, vdev }],
      })[0];
    expect(match('xvda')).toMatchObject({ node: '#block1', path: '/g/e1' });
    // Another name of the same device.
    expect(match('d0p0')).toMatchObject({ node: '#block1' });
    expect(match('xvdb')?.node).toBeUndefined();
    expect(match()?.node).toBeUndefined();
  });

  it('may have left the node that it began on, once that was merged', () => {
    const left = (top: BlockNode, ...more: BlockNode[]): string | undefined => {
      const { devices, nodes } = facts([top]);
      const all = { devices, nodes: [...nodes, ...more], jobs: [] };
      return matchDisks([configured('xvda')], [stored('xvda')], all)[0]?.leftNode;
    };
    const began = blockNode('xvda-qcow2', '/g/e2', { backingFiles: ['/g/xvda.qcow2'] });
    const base = blockNode('#block1', '/g/xvda.qcow2');
    expect(left(base, began)).toBe('xvda-qcow2');
    expect(left(base)).toBeUndefined();
    expect(left(began, base)).toBeUndefined();
    // Below an overlay, it is a part of the disk.
    const overlay = blockNode('xlsnap-xvda-1', '/g/e3', { backingFiles: ['/g/e2', '/g/xvda.qcow2'] });
    expect(left(overlay, began, base)).toBeUndefined();
    // Another disk's, or another program's.
    expect(left(base, blockNode('xvdb-qcow2', '/g/b'), blockNode('theirs', '/g/e2'))).toBeUndefined();
  });

  it('is distinguished from another on the same base', () => {
    const drives = [
      blockNode('xvda-qcow2', '/g/xvda.qcow2', { backingFiles: ['/g/gold.qcow2'] }),
      blockNode('xvdb-qcow2', '/g/xvdb.qcow2', { backingFiles: ['/g/gold.qcow2'] }),
      blockNode('xvdc-qcow2', '/g/gold.qcow2', { readOnly: true }),
    ];
    const gold = { path: '/g/gold.qcow2', format: 'qcow2' };
    const disks = matchDisks(
      [configured('xvda'), configured('xvdb'), configured('xvdc', { writable: false })],
      [stored('xvda'), stored('xvdb'), stored('xvdc', { image: gold, writable: false })],
      facts(drives),
    );
    expect(disks.map(({ node }) => node)).toEqual(['xvda-qcow2', 'xvdb-qcow2', 'xvdc-qcow2']);
    expect(disks.map(codes)).toEqual([
      [[], []],
      [[], []],
      [['DISK_READ_ONLY'], ['DISK_READ_ONLY']],
    ]);
  });

  it('is listed even if only xenstore knows it', () => {
    const disks = matchDisks([], [stored('xvdb')], facts([blockNode('xvdb-qcow2', '/g/xvdb.qcow2')]));
    expect(disks).toMatchObject([{ vdev: 'xvdb', writable: true, node: 'xvdb-qcow2', internal: [] }]);
  });

  it('has overlay names that fit QEMU', () => {
    const [disk] = matchDisks([configured('d1048575p255')], [], undefined);
    expect(disk?.overlayNode.length).toBeLessThanOrEqual(31);
  });
});

describe('what prevents a snapshot', () => {
  const one = (drives: Parameters<typeof facts>[0], more?: Partial<BlockFacts>): ResolvedDisk | undefined =>
    matchDisks([configured('xvda')], [stored('xvda')], facts(drives, more))[0];

  it('two nodes on one image, as before an HVM guest unplugs', () => {
    const disk = one([['ide0-hd0', blockNode('#block159', '/g/xvda.qcow2')], xvda]);
    expect(codes(disk)).toEqual([['DISK_TWO_NODES'], ['DISK_TWO_NODES']]);
    expect(disk?.internal[0]?.message).toContain('xvda-qcow2 and ide0-hd0');
    expect(disk?.node).toBeUndefined();
    expect(disk && internalAction(disk, 's')).toBeUndefined();
    expect(disk && externalAction(disk, '/o')).toBeUndefined();
  });

  it('two nodes, one of them on the overlay', () => {
    const overlay = blockNode('xlsnap-xvda-1', '/g/over.qcow2', { backingFiles: ['/g/xvda.qcow2'] });
    expect(codes(one([['ide0-hd0', blockNode('#block1', '/g/xvda.qcow2')], overlay]))[0]).toEqual([
      'DISK_TWO_NODES',
    ]);
  });

  it('no node', () => {
    expect(codes(one([blockNode('xvdb-qcow2', '/g/xvdb.qcow2')]))).toEqual([
      ['DISK_NO_NODE'],
      ['DISK_NO_NODE'],
    ]);
  });

  it('another disk that writes to the same image', () => {
    const shared = { path: '/g/xvda.qcow2', format: 'qcow2' };
    const disks = matchDisks(
      [configured('xvda'), configured('xvdb')],
      [stored('xvda'), stored('xvdb', { image: shared })],
      facts([xvda, blockNode('xvdb-qcow2', '/g/xvda.qcow2')]),
    );
    expect(disks.map(codes)).toEqual([
      [['DISK_SECOND_WRITER'], ['DISK_SECOND_WRITER']],
      [['DISK_SECOND_WRITER'], ['DISK_SECOND_WRITER']],
    ]);
  });

  it('a running block job', () => {
    expect(codes(one([xvda], { jobs: ['mirror0'] }))).toEqual([['DISK_BLOCK_JOB'], ['DISK_BLOCK_JOB']]);
  });

  it.each([
    ['a raw image', { driver: 'raw', nodeName: 'xvda-raw' }, ['DISK_NOT_QCOW2'], []],
    ['a data file', { externalData: true }, ['DISK_DATA_FILE'], []],
    ['encryption', { encrypted: true }, ['DISK_ENCRYPTED'], ['DISK_ENCRYPTED']],
    ['a read-only node', { readOnly: true }, ['DISK_NODE_READ_ONLY'], ['DISK_NODE_READ_ONLY']],
    ['a network image', { file: 'nbd://host/x' }, ['DISK_NO_FILE'], ['DISK_NO_FILE']],
  ])('the image: %s', (_, more, internal, external) => {
    const disk = one([{ ...xvda, ...more }]);
    expect(codes(disk)).toEqual([internal, external]);
    expect(disk?.node).toBeDefined();
  });

  it.each([
    ['blkback', stored('xvda', {}, 'vbd'), 'DISK_BACKEND'],
    ['blktap', stored('xvda', {}, 'vbd3'), 'DISK_BACKEND'],
    ['a driver domain', stored('xvda', {}, 'qdisk', 3), 'DISK_DRIVER_DOMAIN'],
    ['nobody', stored('xvda', { backend: undefined }), 'DISK_NO_BACKEND'],
  ])('the backend: %s', (_, disk, code) => {
    expect(codes(matchDisks([configured('xvda')], [disk], facts([]))[0])).toEqual([[code], [code]]);
  });

  it('a missing QEMU, or nothing in xenstore', () => {
    expect(codes(matchDisks([configured('xvda')], [stored('xvda')], undefined)[0])[0]).toEqual([
      'DISK_NO_QEMU',
    ]);
    expect(codes(matchDisks([configured('xvda')], [], facts([xvda]))[0])[0]).toEqual(['DISK_NO_BACKEND']);
    expect(codes(matchDisks([configured('vda')], [], facts([xvda]))[0])[0]).toEqual([
      'DISK_NAME',
      'DISK_NO_BACKEND',
    ]);
  });

  it('being read-only, by the configuration or by the backend', () => {
    const known = stored('xvda', { writable: false });
    expect(codes(matchDisks([configured('xvda')], [known], facts([xvda]))[0])[0]).toEqual(['DISK_READ_ONLY']);
    const config = configured('xvda', { writable: false });
    expect(codes(matchDisks([config], [stored('xvda')], facts([xvda]))[0])[0]).toEqual(['DISK_READ_ONLY']);
  });

  it('a CD-ROM drive, with or without a disc', () => {
    const image = { path: '/iso/a.iso', format: 'raw' };
    const drive = { cdrom: true, writable: false };
    const disks = matchDisks(
      [
        configured('hdc', { ...drive, path: '/iso/a.iso', format: 'raw' }),
        configured('hdd', { ...drive, path: undefined }),
      ],
      [stored('hdc', { ...drive, image }), stored('hdd', { ...drive, image: undefined })],
      facts([['ide1-cd0', blockNode('#block7', '/iso/a.iso', { driver: 'raw', readOnly: true })]]),
    );
    expect(disks).toMatchObject([{ path: '/iso/a.iso' }, { path: undefined }]);
    expect(disks.map((disk) => codes(disk)[1])).toEqual([['DISK_CDROM'], ['DISK_CDROM']]);
  });

  it('several things at once', () => {
    const disk = one([{ ...xvda, encrypted: true, driver: 'raw', nodeName: 'xvda-raw' }], { jobs: ['j'] });
    expect(codes(disk)).toEqual([
      ['DISK_ENCRYPTED', 'DISK_BLOCK_JOB', 'DISK_NOT_QCOW2'],
      ['DISK_ENCRYPTED', 'DISK_BLOCK_JOB'],
    ]);
  });
});

it('what libxl and the backends wrote to xenstore is read', async () => {
  await using directory = await tempDir();
  const path = join(directory.path, 'socket');
  const backend = '/local/domain/0/backend';
  await using server = await FakeXenstored.listen(path, {
    '/libxl/5/device/vbd/51712/backend': `${backend}/qdisk/5/51712`,
    '/libxl/5/device/vbd/51712/params': 'qcow2:/g/old.qcow2',
    '/libxl/5/device/vbd/51712/mode': 'w',
    [`${backend}/qdisk/5/51712/params`]: 'qcow2:/g/a:b.qcow2',
    [`${backend}/qdisk/5/51712/dev`]: 'xvda',
    [`${backend}/qdisk/5/51712/device-type`]: 'disk',
    '/libxl/5/device/vbd/51728/backend': '/local/domain/3/backend/vbd/5/51728',
    '/libxl/5/device/vbd/51728/params': '/dev/vg/lv',
    '/libxl/5/device/vbd/51728/dev': 'xvdb',
    '/libxl/5/device/vbd/51728/mode': 'r',
    '/libxl/5/device/vbd/5632/backend': `${backend}/qdisk/5/5632`,
    [`${backend}/qdisk/5/5632/params`]: 'aio:',
    [`${backend}/qdisk/5/5632/dev`]: 'hdc',
    [`${backend}/qdisk/5/5632/device-type`]: 'cdrom',
  });
  await using client = await XenstoreClient.connect({ path: server.path });
  expect(await readStoredDisks(5, client)).toEqual([
    {
      vdev: 'xvda',
      devid: 51712,
      backend: { kind: 'qdisk', domid: 0, path: `${backend}/qdisk/5/51712` },
      image: { path: '/g/a:b.qcow2', format: 'qcow2' },
      writable: true,
      cdrom: false,
    },
    {
      vdev: 'xvdb',
      devid: 51728,
      backend: { kind: 'vbd', domid: 3, path: '/local/domain/3/backend/vbd/5/51728' },
      image: { path: '/dev/vg/lv', format: 'raw' },
      writable: false,
      cdrom: false,
    },
    {
      vdev: 'hdc',
      devid: 5632,
      backend: { kind: 'qdisk', domid: 0, path: `${backend}/qdisk/5/5632` },
      image: undefined,
      writable: false,
      cdrom: true,
    },
  ]);
  expect(await readStoredDisks(6, client)).toEqual([]);
});

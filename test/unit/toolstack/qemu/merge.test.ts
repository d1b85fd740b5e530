import { join } from 'node:path';
import { expect, it } from 'vitest';
import { QmpClient } from '../../../../src/qmp/client.ts';
import { FakeQmpServer } from '../../../../src/qmp/testing.ts';
import { QemuDeviceModel } from '../../../../src/toolstack/qemu/device-model.ts';
import { matchDisks, readBlockFacts } from '../../../../src/toolstack/qemu/disks.ts';
import { FakeBlockGraph } from '../../../support/fake-block-graph.ts';
import { tempDir } from '../../../support/temp.ts';

const FILES = ['/g/e2', '/g/e1', '/g/base'];

/** Merges as one process, while xenstore names an image. */
async function merge(
  graph: FakeBlockGraph,
  overlay: string,
  base: string,
  { named = overlay, refuse = (_: string): void => {} } = {},
): Promise<{ done: boolean; warnings: readonly string[] }> {
  await using directory = await tempDir();
  const path = join(directory.path, 'qmp');
  const checked = Object.entries(graph.handlers).map(([command, handler]) => [
    command,
    (...args: Parameters<typeof handler>): unknown => {
      refuse(command);
      return handler(...args);
    },
  ]);
  await using _ = await FakeQmpServer.listen(path, Object.fromEntries(checked));
  const client = await QmpClient.connect(path);
  const disk = { vdev: 'xvda', path: named, format: 'qcow2', writable: true, cdrom: false };
  await using model = new QemuDeviceModel(client, matchDisks([disk], [], await readBlockFacts(client)));
  const warnings: string[] = [];
  const onWarning = (text: string): void => void warnings.push(text);
  return { done: await model.mergeOverlay({ vdev: 'xvda', overlay, base }, { onWarning }), warnings };
}

it('each overlay that a domain was started on is merged, and QEMU keeps none of them', async () => {
  const graph = new FakeBlockGraph(FILES);
  expect(await merge(graph, '/g/e2', '/g/e1')).toEqual({ done: true, warnings: [] });
  expect(await merge(graph, '/g/e1', '/g/base')).toEqual({ done: true, warnings: [] });
  expect([...graph.nodes.keys()]).toEqual(['#block200']);
  expect(graph.top).toBe('#block200');
});

it('a node that QEMU keeps after the merge is a warning that names its image', async () => {
  const graph = new FakeBlockGraph(FILES);
  graph.used.add('xvda-qcow2');
  const { done, warnings } = await merge(graph, '/g/e2', '/g/e1');
  expect(done).toBe(true);
  expect(warnings).toEqual([expect.stringMatching(/^disk xvda: .*\/g\/e2.*xvda-qcow2 is in use/)]);
  // The next one says why it cannot be done, and can be once that use ends.
  await expect(merge(graph, '/g/e1', '/g/base')).rejects.toMatchObject({
    code: 'IMAGE_IN_USE',
    message: expect.stringContaining('(xvda-qcow2) is on /g/e1'),
    hint: expect.stringContaining('shut the domain down'),
  });
  graph.used.clear();
  expect(await merge(graph, '/g/e1', '/g/base')).toEqual({ done: true, warnings: [] });
  expect([...graph.nodes.keys()]).toEqual(['#block200']);
});

it('a process that is killed before xenstore names the base leaves a disk that is found, and a node that goes', async () => {
  const graph = new FakeBlockGraph(FILES);
  let switched = false;
  const killed = merge(graph, '/g/e2', '/g/e1', {
    refuse: (command) => {
      if (switched) throw new Error('dead');
      switched = command === 'block-job-complete';
    },
  });
  expect(await killed).toMatchObject({ done: true, warnings: [expect.stringContaining('dead')] });
  expect([...graph.nodes.keys()]).toContain('xvda-qcow2');
  // Done already: by the name of the device, since that of the node says nothing.
  expect(await merge(graph, '/g/e2', '/g/e1', { named: '/g/e2' })).toEqual({ done: false, warnings: [] });
  expect([...graph.nodes.keys()]).toEqual(['#block100', '#block200']);
});

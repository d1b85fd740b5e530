import { linkSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseConfig } from '../../../../src/config/parse.ts';
import type { RevertRequest } from '../../../../src/snapshot/api.ts';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { planRevert, revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { contentOf, FakeHost, writeImage } from '../../../../src/testing/fake-host.ts';
import { type DiskKind, failure, fastDirectory, filesOf, snapshotConfig } from '../../../support/scene.ts';

let directory: string;
beforeEach(() => {
  directory = fastDirectory('xlsnap-users-');
});
afterEach(() => rmSync(directory, { recursive: true }));
const at = (name: string): string => join(directory, name);

/** A domain that has moved on since its snapshot. */
async function scene(kind: DiskKind): Promise<{ host: FakeHost; request: RevertRequest }> {
  const host = new FakeHost({ directory });
  host.write('at the snapshot');
  const config = snapshotConfig('s1', directory, [kind]);
  const { plan } = await createSnapshot(host, { domain: 'guest1', config, sync: false });
  host.write('later');
  const path = plan.configPath ?? '';
  return {
    host,
    request: { domain: 'guest1', config: parseConfig(readFileSync(path, 'utf8'), path), force: true },
  };
}

const WRITES = new Set(['createTag', 'applyTag', 'deleteTag']);
const changed = { internal: 'xvda.img', external: 's1-xvda.qcow2' } as const;

describe.each(['internal', 'external'] as const)('an image of an %s snapshot', (kind) => {
  it.each([
    [
      'another domain has open',
      (host: FakeHost) => host.addDomain({ name: 'web1', images: { xvda: at(changed[kind]) } }),
    ],
    ['a loop device has open', (host: FakeHost) => host.kernelUsers.set('/dev/loop0', at(changed[kind]))],
    [
      'a loop device has open by another name',
      (host: FakeHost) => {
        linkSync(at(changed[kind]), at('link'));
        host.kernelUsers.set('/dev/loop0', at('link'));
      },
    ],
    [
      'the device mapper has open',
      (host: FakeHost) => host.kernelUsers.set('/dev/mapper/backup', at(changed[kind])),
    ],
    ['is mounted', (host: FakeHost) => host.kernelUsers.set('the file system at /mnt', at(changed[kind]))],
    [
      'another domain has open by an overlay',
      (host: FakeHost) => {
        writeImage(at('clone.qcow2'), { format: 'qcow2', content: '', tags: {}, backing: at(changed[kind]) });
        host.addDomain({ name: 'web1', images: { xvda: at('clone.qcow2') } });
      },
    ],
  ])('a disk that %s is refused before anything is touched, even with --force', async (_what, use) => {
    for (const down of [false, true]) {
      const { host, request } = await scene(kind);
      if (down) host.own.end();
      use(host);
      const files = filesOf(directory);
      for (const call of [planRevert, revertSnapshot]) {
        const error = await failure(call(host, request));
        expect(error).toMatchObject({ code: 'IMAGE_IN_USE', exitCode: 5 });
        expect(error.message).toMatch(
          /web1 \(domid \d+\)|\/dev\/loop0|\/dev\/mapper\/backup|the file system at \/mnt/,
        );
      }
      expect(filesOf(directory)).toEqual(files);
      expect(host.runs).toBe(!down);
      rmSync(directory, { recursive: true });
      directory = fastDirectory('xlsnap-users-');
    }
  });

  it.each([
    ['reboots', (host: FakeHost) => host.reboot()],
    ['is created again under another uuid', (host: FakeHost) => host.recreate()],
  ])(
    'a disk is not written to if the domain %s at any moment, and the error is true',
    async (_what, change) => {
      const seen = new Set<string>();
      // Until a revert is over before that call: how many there are depends on how often it has to wait.
      for (let call = 0, count = 1; count > call; call++) {
        rmSync(directory, { recursive: true });
        directory = fastDirectory('xlsnap-users-');
        const { host, request } = await scene(kind);
        host.calls.length = 0;
        count = 0;
        host.fault = (name) => {
          // What happens while qemu-img is already working cannot be prevented.
          if (count++ !== call || WRITES.has(name)) return;
          seen.add(name);
          change(host);
        };
        const outcome = await revertSnapshot(host, request).then(
          () => undefined,
          (error: unknown) => error as Error,
        );
        host.fault = () => {};
        const now = host.domid;
        const where = `call ${call}`;
        if (outcome === undefined) expect(contentOf(at(changed[kind])), where).toBe('at the snapshot');
        else if (/is not running/.test(outcome.message)) expect(now, where).toBeUndefined();
      }
      expect([...seen]).toEqual(expect.arrayContaining(['destroy', 'findByName', 'restore']));
    },
    180_000,
  );
});

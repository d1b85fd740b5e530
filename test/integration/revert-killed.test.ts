/**
 * A revert that is killed by SIGKILL while qemu-img works, which continues, and a recover that starts at
 * once.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Host } from '../../src/snapshot/ports.ts';
import { readJournal } from '../../src/snapshot/read-journal.ts';
import { recoverRevert } from '../../src/snapshot/revert/recover.ts';
import { QemuImages } from '../../src/toolstack/qemu/images.ts';
import { fakeProgram } from '../support/fake-program.ts';
import { makeImage, output } from '../support/qemu.ts';
import { tempDir } from '../support/temp.ts';

const root = join(import.meta.dirname, '../..');
let directory: Awaited<ReturnType<typeof tempDir>>;
let restorePath = (): void => {};
beforeEach(async () => {
  directory = await tempDir();
});
afterEach(async () => {
  restorePath();
  await directory[Symbol.asyncDispose]();
});

const at = (name: string): string => join(directory.path, name);
const write = (path: string, pattern: number): Promise<string> =>
  output('qemu-io', '-f', 'qcow2', '-c', `write -P ${pattern} 0 64k`, path);
const holds = async (path: string, pattern: number): Promise<boolean> =>
  !(await output('qemu-io', '-r', '-f', 'qcow2', '-c', `read -P ${pattern} 0 64k`, path)).includes('failed');

/** A qemu-img that waits before it opens the image for one of its commands. */
async function slowQemuImg(work: string): Promise<void> {
  const real = (await output('which', 'qemu-img')).trim();
  const late = `exec -a qemu-img sh -c 'sleep 1; exec "$0" "$@"' ${real} "$@"`;
  restorePath = fakeProgram(
    directory.path,
    'qemu-img',
    `case "$*" in *"${work}"*) touch ${at('begun')}; exec bash -c ${JSON.stringify(late).replaceAll('$', '\\$')} x "$@" ;; esac\n` +
      `exec ${real} "$@"`,
  );
}

/** The part of a revert that changes disks, in a process of its own. */
const script = (): string => `
  import { openRevertJournal } from ${JSON.stringify(join(root, 'src/snapshot/revert/journal.ts'))};
  import { Phases } from ${JSON.stringify(join(root, 'src/snapshot/phases.ts'))};
  import { revertDisks } from ${JSON.stringify(join(root, 'src/snapshot/revert/disks.ts'))};
  import { QemuImages } from ${JSON.stringify(join(root, 'src/toolstack/qemu/images.ts'))};
  const [overlay, base, image] = ${JSON.stringify([at('o.qcow2'), at('b.qcow2'), at('a.qcow2')])};
  const disks = [
    { kind: 'internal', vdev: 'xvda', image, tag: 's1' },
    { kind: 'external', vdev: 'xvdb', base, baseFormat: 'qcow2', overlay, replaced: overlay },
  ];
  const plan = { name: 's1', domain: 'guest1', uuid: 'u', memoryPath: '/x', state: 'running', disks };
  const options = { running: false, force: false, keep: false };
  const journal = await openRevertJournal(${JSON.stringify(at('journal'))}, plan, { options, mark: 'm-1' });
  const host = { images: new QemuImages(), toolstack: { imagesInUse: async () => [] } };
  await revertDisks(host, disks, 'm-1', new Phases({}), journal);
`;

it.each(['snapshot -q -c xlsnap-before', 'snapshot -q -a s1', 'create -q'])(
  'a revert killed in qemu-img %s is undone, and stays undone',
  async (work) => {
    const image = await makeImage(at('a.qcow2'));
    const base = await makeImage(at('b.qcow2'));
    for (const path of [image, base]) await write(path, 1);
    const images = new QemuImages();
    await images.createTag(image, 's1');
    await images.createOverlay(at('o.qcow2'), { path: base, format: 'qcow2' });
    for (const path of [image, at('o.qcow2')]) await write(path, 2);
    const files = readdirSync(directory.path).sort();

    await slowQemuImg(work);
    const args = ['--import', 'tsx', '--input-type=module', '-e', script()];
    const child = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
    await expect.poll(() => existsSync(at('begun')), { timeout: 20_000 }).toBe(true);
    child.kill('SIGKILL');
    await once(child, 'exit');

    const found = await readJournal(at('journal'));
    if (found?.kind !== 'revert') throw new Error('there is no journal');
    const host: Pick<Host, 'images'> & { toolstack: Pick<Host['toolstack'], 'findByUuid' | 'imagesInUse'> } =
      {
        images,
        toolstack: { findByUuid: async () => undefined, imagesInUse: async () => [] },
      };
    expect(await recoverRevert(host as Host, found, {})).toMatchObject({ outcome: 'undone', guest: 'gone' });
    // Nothing is running any more that could change this.
    for (const path of [image, `${at('o.qcow2')}.fresh-m-1`]) {
      expect(await images.worker(path)).toBeUndefined();
    }
    expect(readdirSync(directory.path).sort()).toEqual(['begun', 'bin', ...files].sort());
    expect((await images.info(image, 'qcow2'))?.tags).toEqual(['s1']);
    expect([await holds(image, 2), await holds(at('o.qcow2'), 2), await holds(base, 1)]).toEqual([
      true,
      true,
      true,
    ]);
    expect((await images.check(image)).corruptions).toBe(0);
  },
);

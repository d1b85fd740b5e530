import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { createSnapshot } from '../../../../src/snapshot/create/create.ts';
import { findSnapshotConfig } from '../../../../src/snapshot/list/named.ts';
import { revertSnapshot } from '../../../../src/snapshot/revert/revert.ts';
import { contentOf, FAKE_UUID, FakeHost } from '../../../../src/testing/fake-host.ts';
import { failure, fastDirectory } from '../../../support/scene.ts';

let host: FakeHost;

beforeEach(() => {
  host = new FakeHost({ directory: fastDirectory('xlsnap-named-') });
});

afterEach(() => {
  expect(host.harm).toEqual([]);
  rmSync(host.directory, { recursive: true, force: true });
});

async function take(name: string): Promise<string> {
  return (await createSnapshot(host, { domain: 'guest1', name, sync: false })).plan.memoryPath;
}

const find = (domain: string, name: string) => findSnapshotConfig(host, { domain, name });

describe('a snapshot by its name', () => {
  test('is the one that the cfgfile beside its memory file says', async () => {
    const path = await take('s1');
    await take('s2');
    const config = await find('guest1', 's1');
    expect(config).toEqual({
      name: 's1',
      memoryPath: path,
      disks: [{ kind: 'internal', target: 'xvda' }],
      source: `${path}.cfg`,
    });
  });

  test.each(['guest1', '7', FAKE_UUID])('is found by the domain %s, and reverted to', async (domain) => {
    host.write('before');
    await take('s1');
    host.write('after');
    await revertSnapshot(host, { domain, config: await find(domain, 's1') });
    expect(contentOf(`${host.directory}/xvda.img`)).toBe('before');
  });

  test('is found under the uuid that the domain had then, and while it is down', async () => {
    const path = await take('s1');
    host.recreate();
    expect((await find('guest1', 's1')).memoryPath).toBe(path);
    host.own.end();
    expect((await find('guest1', 's1')).memoryPath).toBe(path);
  });

  test('is where its files are now, whatever its cfgfile says', async () => {
    const path = await take('s1');
    const moved = join(host.directory, 's1.save');
    for (const end of ['', '.cfg', '.json']) renameSync(`${path}${end}`, `${moved}${end}`);
    expect((await find('guest1', 's1')).memoryPath).toBe(moved);
  });

  test('needs no cfgfile', async () => {
    const path = await take('s1');
    rmSync(`${path}.cfg`);
    host.write('after');
    const config = await find('guest1', 's1');
    expect(config).toEqual({ name: 's1', memoryPath: path });
    expect((await revertSnapshot(host, { domain: 'guest1', config })).plan.name).toBe('s1');
  });

  test('that two have is refused, with both', async () => {
    const first = await take('s1');
    host.recreate();
    const second = await take('s1').catch(async () => {
      // The tag exists: another disk, in real life.
      const other = join(host.directory, 's1.save');
      for (const end of ['', '.cfg', '.json'])
        writeFileSync(`${other}${end}`, readFileSync(`${first}${end}`));
      return other;
    });
    const error = await failure(find('guest1', 's1'));
    expect(error).toMatchObject({ code: 'AMBIGUOUS_SNAPSHOT', exitCode: 2 });
    for (const path of [first, second]) expect(error.message).toContain(`  - ${path}.cfg, of 20`);
    expect(error.data['candidates']).toMatchObject([{ name: 's1' }, { name: 's1' }]);
  });

  test('that none has is refused, with what there is, newest first', async () => {
    await take('s1');
    await take('s2');
    const error = await failure(find('guest1', 's3'));
    expect(error).toMatchObject({
      code: 'NO_SNAPSHOT',
      exitCode: 2,
      message: 'there is no snapshot "s3" of domain guest1; there are s2, s1',
    });
    expect((await failure(find('other', 's1'))).message).toBe(
      `there is no snapshot "s1" of domain other; there are no snapshots of it in ${host.directory}`,
    );
  });

  test('or of a domain that none is of, gets a suggestion', async () => {
    await take('before-upgrade');
    expect((await failure(find('guest1', 'before-upgrad'))).hint).toMatch(
      /^did you mean "before-upgrade"\? /,
    );
    expect((await failure(find('guest2', 'before-upgrade'))).hint).toMatch(/^did you mean domain guest1\? /);
    expect((await failure(find('database', 'x'))).hint).toMatch(/^xlsnap snapshot-list /);
    const create = createSnapshot(host, { domain: 'guest' });
    expect(await failure(create)).toMatchObject({
      code: 'DOMAIN_NOT_FOUND',
      hint: 'did you mean guest1? xl list shows the domains',
    });
  });

  test('whose manifest is damaged is refused, and says so', async () => {
    const path = await take('s1');
    writeFileSync(`${path}.json`, '{');
    const error = await failure(find('guest1', 's1'));
    expect(error.code).toBe('NO_SNAPSHOT');
    expect(error.message).toContain(`the manifest ${path}.json is not JSON`);
  });
});

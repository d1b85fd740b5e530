import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { configDigest, type Manifest, ManifestError, readManifest } from '../../../src/snapshot/manifest.ts';
import type { LibxlConfig } from '../../../src/snapshot/ports.ts';
import { MANIFEST } from '../../support/samples.ts';
import { tempDir } from '../../support/temp.ts';

async function read(text: string): Promise<Manifest | undefined> {
  await using directory = await tempDir();
  const path = join(directory.path, 's1.save.json');
  writeFileSync(path, text);
  return await readManifest(path);
}

/** Paths of all leaves, and of the objects and lists that hold them. */
function paths(value: unknown, at: readonly string[] = []): string[][] {
  if (typeof value !== 'object' || value === null) return [[...at]];
  const inner = Object.entries(value).flatMap(([key, item]) => paths(item, [...at, key]));
  return at.length === 0 ? inner : [[...at], ...inner];
}

function spoiled(path: readonly string[], bad: unknown): string {
  const copy: unknown = structuredClone(MANIFEST);
  let holder = copy as Record<string, unknown>;
  for (const key of path.slice(0, -1)) holder = holder[key] as Record<string, unknown>;
  holder[path.at(-1) ?? ''] = bad;
  return JSON.stringify(copy);
}

describe('readManifest', () => {
  it('reads what create writes, and takes keys that a later version may add', async () => {
    expect(await read(JSON.stringify(MANIFEST))).toEqual(MANIFEST);
    expect(await read(JSON.stringify({ ...MANIFEST, later: { x: 1 } }))).toEqual(MANIFEST);
  });

  it.each(paths(MANIFEST).map((path) => [path.join('.'), path] as const))(
    'refuses one whose %s is spoilt, and says what to do',
    async (_name, path) => {
      for (const bad of [undefined, null, true, 'x'.repeat(3), -1, [[]], {}]) {
        const good = path.reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], MANIFEST);
        // Other words, and other numbers where any is right, are not spoilt.
        if (
          typeof bad === typeof good &&
          typeof bad === 'string' &&
          !/kind|state|type|algorithm|sums|format$/.test(path.at(-1) ?? '')
        )
          continue;
        if (path.at(-1) === 'seconds' && bad === -1) continue;
        if (path.join('.') === 'checksums' && bad === undefined) continue;
        const attempt = read(spoiled(path, bad));
        await expect(attempt, JSON.stringify(bad)).rejects.toThrow(ManifestError);
        await expect(attempt).rejects.toHaveProperty('hint', expect.stringContaining('--accept no-manifest'));
      }
    },
  );

  it('reads those of the first version, which have no checksums', async () => {
    const { checksums: _, ...old } = MANIFEST;
    expect(await read(JSON.stringify(old))).toEqual(old);
  });

  it.each<[string, object]>([
    ['too few sums', { sums: '0123abcd' }],
    ['too many sums', { sums: '0123abcd0000000000000000' }],
    ['sums of other digits', { sums: '0123ABCD00000000' }],
    ['stretches of which there would be millions', { stretch: 1, sums: '0'.repeat(8 * 3073) }],
    ['another algorithm', { algorithm: 'md5' }],
  ])('refuses %s', async (_what, bad) => {
    const attempt = read(JSON.stringify({ ...MANIFEST, checksums: { ...MANIFEST.checksums, ...bad } }));
    await expect(attempt).rejects.toThrow(ManifestError);
  });

  it.each([1.5, -1, 2 ** 53])('refuses %d as a count', async (bad) => {
    await expect(read(spoiled(['memory', 'bytes'], bad))).rejects.toThrow('memory.bytes is not a count');
  });

  it('says which version it does not know', async () => {
    await expect(read(spoiled(['version'], 2))).rejects.toThrow('has version 2; this xlsnap knows 1');
  });

  it.each(['', '{', 'null', '[]', '7', '\0'])('refuses %j', async (text) => {
    await expect(read(text)).rejects.toThrow(ManifestError);
  });

  it('gives undefined where there is none, and an error where something else is', async () => {
    await using directory = await tempDir();
    expect(await readManifest(join(directory.path, 'none'))).toBeUndefined();
    mkdirSync(join(directory.path, 'directory'));
    await expect(readManifest(join(directory.path, 'directory'))).rejects.toThrow(ManifestError);
  });

  it('does not read a file of 1 TiB to find out that it is too large', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'huge');
    writeFileSync(path, '{}');
    truncateSync(path, 2 ** 40);
    await expect(readManifest(path)).rejects.toThrow('is larger than 4194304 octets');
  });
});

describe('configDigest', () => {
  const config: LibxlConfig = {
    c_info: { name: 'guest1', uuid: 'u', domid: 3 },
    b_info: { max_memkb: 131072, kernel: '/k' },
    disks: [
      { vdev: 'xvda', pdev_path: '/i/a', format: 'qcow2', readwrite: 1 },
      { vdev: 'xvdb', pdev_path: '/i/b', format: 'raw', readwrite: 1 },
    ],
    nics: [{ mac: '00:16:3e:00:00:01' }],
  };
  const digest = configDigest(config);

  it('is a SHA-256 in hexadecimal', () => {
    expect(digest).toMatch(/^[0-9a-f]{64}$/);
  });

  it.each<[string, LibxlConfig]>([
    ['the order of keys', Object.fromEntries(Object.entries(config).reverse())],
    ['the domid', { ...config, c_info: { uuid: 'u', name: 'guest1', domid: 4 } }],
    ['no domid', { ...config, c_info: { uuid: 'u', name: 'guest1' } }],
    [
      'images and their formats',
      {
        ...config,
        disks: [
          { vdev: 'xvda', pdev_path: '/i/a1', format: 'qcow2', readwrite: 1 },
          { vdev: 'xvdb', pdev_path: '/i/b1', format: 'qcow2', readwrite: 1 },
        ],
      },
    ],
  ])('does not count %s', (_what, same) => {
    expect(configDigest(same)).toBe(digest);
  });

  it.each<[string, LibxlConfig]>([
    ['the size of memory', { ...config, b_info: { max_memkb: 131073, kernel: '/k' } }],
    ['the uuid', { ...config, c_info: { name: 'guest1', uuid: 'v' } }],
    ['a disk less', { ...config, disks: [] }],
    ['the order of disks', { ...config, disks: [...(config['disks'] as unknown[])].reverse() }],
    ['a network card', { ...config, nics: [{ mac: '00:16:3e:00:00:02' }] }],
    ['a further key', { ...config, vfbs: [] }],
    ['a domid elsewhere', { ...config, domid: 3 }],
  ])('counts %s', (_what, other) => {
    expect(configDigest(other)).not.toBe(digest);
  });
});

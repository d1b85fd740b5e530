import { mkdirSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Manifest, ManifestError, parseManifest, readManifest } from '../../../src/memfile/manifest.ts';
import { MANIFEST } from '../../support/samples.ts';
import { tempDir } from '../../support/temp.ts';

async function read(text: string): Promise<Manifest | undefined> {
  await using directory = await tempDir();
  const path = join(directory.path, 's1.save.json');
  writeFileSync(path, text);
  return await readManifest(path);
}

/** Yields the paths of all leaves, and of the objects and lists that contain them. */
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
  it('accepts one with the digest that early versions wrote', async () => {
    expect(parseManifest('m', JSON.stringify({ ...MANIFEST, configDigest: 'ab' }))).toEqual(MANIFEST);
  });

  it('reads what a create writes, and accepts keys that a later version may add', async () => {
    expect(await read(JSON.stringify(MANIFEST))).toEqual(MANIFEST);
    expect(await read(JSON.stringify({ ...MANIFEST, later: { x: 1 } }))).toEqual(MANIFEST);
  });

  it.each(paths(MANIFEST).map((path) => [path.join('.'), path] as const))(
    'refuses one whose %s is damaged, and says what to do',
    async (_name, path) => {
      for (const bad of [undefined, null, true, 'x'.repeat(3), -1, [[]], {}]) {
        const good = path.reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], MANIFEST);
        // Other words, and other numbers where any is right, are not damage.
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

  it('reads manifests of the first version, which have no checksums', async () => {
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

  it('reports a version that it does not know', async () => {
    await expect(read(spoiled(['version'], 2))).rejects.toThrow('has version 2; this xlsnap knows 1');
  });

  it.each(['', '{', 'null', '[]', '7', '\0'])('refuses %j', async (text) => {
    await expect(read(text)).rejects.toThrow(ManifestError);
  });

  it('returns undefined if there is none, and throws if something else is there', async () => {
    await using directory = await tempDir();
    expect(await readManifest(join(directory.path, 'none'))).toBeUndefined();
    mkdirSync(join(directory.path, 'directory'));
    await expect(readManifest(join(directory.path, 'directory'))).rejects.toThrow(ManifestError);
  });

  it('notices without reading 1 TiB that a file is too large', async () => {
    await using directory = await tempDir();
    const path = join(directory.path, 'huge');
    writeFileSync(path, '{}');
    truncateSync(path, 2 ** 40);
    await expect(readManifest(path)).rejects.toThrow('is larger than 4194304 bytes');
  });
});

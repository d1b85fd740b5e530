// Compiles the TypeScript in the documentation and in doc comments against the built package.
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './dependencies.mjs';

/** What the examples leave to their reader. */
const GIVEN = {
  host: "import('xlsnap').Host",
  directory: 'string',
  signal: 'AbortSignal',
  yourProgram: "(host: import('xlsnap').Host) => Promise<void>",
  yours: `{
  describe(domid: number): Promise<import('xlsnap').LibxlConfig>;
  destroy(domid: number): Promise<void>;
  restore(path: string, config: import('xlsnap').LibxlConfig | undefined): Promise<number>;
}`,
};

const out = join(root, '.cache/doc-examples');
rmSync(out, { recursive: true, force: true });
mkdirSync(out, { recursive: true });
const texts = [
  'README.md',
  ...readdirSync(join(root, 'docs'), { recursive: true, encoding: 'utf8' }).map((name) => `docs/${name}`),
  ...readdirSync(join(root, 'src'), { recursive: true, encoding: 'utf8' }).map((name) => `src/${name}`),
].filter((name) => /\.(md|ts)$/.test(name));
let count = 0;
for (const name of texts) {
  const text = readFileSync(join(root, name), 'utf8').replaceAll(
    /^ *\* ?/gm,
    name.endsWith('.ts') ? '' : '$&',
  );
  for (const [, block] of text.matchAll(/^```ts\n(.*?)^```$/gms)) {
    const given = Object.entries(GIVEN)
      .filter(([word]) => new RegExp(`\\b${word}\\b`).test(block))
      .filter(([word]) => !new RegExp(`(const|using) ${word}\\b`).test(block))
      .map(([word, type]) => `declare const ${word}: ${type};\n`);
    const file = `${name.replaceAll(/[/.]/g, '-')}-${++count}.ts`;
    writeFileSync(join(out, file), `// From ${name}\n${given.join('')}${block}\nexport {};\n`);
  }
}
writeFileSync(
  join(out, 'tsconfig.json'),
  JSON.stringify({
    extends: '../../tsconfig.package.json',
    compilerOptions: { rootDir: '../..', noUnusedLocals: false, noUnusedParameters: false },
    include: ['*.ts'],
  }),
);
const { status } = spawnSync(join(root, 'node_modules/.bin/tsc'), ['-p', out], { stdio: 'inherit' });
if (count === 0) throw new Error('there are no examples');
console.log(`${count} examples`);
process.exit(status ?? 1);

// The import table of ARCHITECTURE.md. `node scripts/layers.mjs --write` puts it into biome.json, `--check`
// fails if biome.json differs. test/unit/layers.test.ts plants bad imports.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { root } from './dependencies.mjs';

/** Each folder of src/, and what it may import besides itself and node:*. */
export const layers = {
  core: [],
  savefmt: ['core', 'binary-parser'],
  qmp: ['core'],
  xenstore: ['core'],
  xenctrl: ['core', 'koffi'],
  config: ['core'],
  memfile: ['core', 'savefmt'],
  snapshot: ['core', 'savefmt', 'config', 'memfile'],
  toolstack: ['core', 'savefmt', 'qmp', 'xenstore', 'xenctrl', 'config', 'memfile', 'snapshot'],
  testing: ['core', 'savefmt', 'qmp', 'xenstore', 'config', 'memfile', 'snapshot'],
  bench: ['core', 'config', 'memfile', 'snapshot', 'toolstack'],
  cli: [
    'core',
    'savefmt',
    'qmp',
    'xenstore',
    'xenctrl',
    'config',
    'memfile',
    'snapshot',
    'toolstack',
    'bench',
    'commander',
  ],
};
const packages = ['koffi', 'commander', 'binary-parser'];

function overrides() {
  const folders = Object.keys(layers);
  const perFolder = folders.map((folder) => {
    const may = layers[folder];
    const banned = [
      ...folders.filter((other) => other !== folder && !may.includes(other)).map((other) => `**/${other}/**`),
      ...packages.filter((name) => !may.includes(name)),
    ];
    return {
      includes: [`src/${folder}/**`],
      linter: {
        rules: {
          style: {
            noRestrictedImports: {
              level: 'error',
              options: {
                patterns: [
                  {
                    group: banned,
                    message: `src/${folder} may import only: ${['node:*', ...may].join(', ')} (ARCHITECTURE.md)`,
                  },
                ],
              },
            },
          },
        },
      },
    };
  });
  return [
    ...perFolder,
    {
      // Vitest requires a default export.
      includes: ['vitest.config.ts'],
      linter: { rules: { style: { noDefaultExport: 'off' } } },
    },
  ];
}

const mode = process.argv[2];
if (mode === '--write' || mode === '--check') {
  const file = join(root, 'biome.json');
  const config = JSON.parse(readFileSync(file, 'utf8'));
  const old = JSON.stringify(config.overrides);
  config.overrides = overrides();
  if (mode === '--write') writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`);
  else if (old !== JSON.stringify(config.overrides)) {
    console.error('biome.json does not match scripts/layers.mjs; run node scripts/layers.mjs --write');
    process.exit(1);
  }
}

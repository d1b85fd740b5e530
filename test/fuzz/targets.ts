/** Everything that reads what others wrote, with good inputs, and what must hold for any input. */
import { deepStrictEqual, ok } from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { compareBenches, EMBEDDED_END, EMBEDDED_START, parseEarlierBench } from '../../src/bench/earlier.ts';
import { benchReport } from '../../src/bench/report.ts';
import { jsonLine } from '../../src/cli/text.ts';
import { ConfigError } from '../../src/config/errors.ts';
import { checkDescription, checkPath, checkSnapshotName } from '../../src/config/name.ts';
import { parseConfig } from '../../src/config/parse.ts';
import { printConfig } from '../../src/config/print.ts';
import { toDomid } from '../../src/core/brand.ts';
import { BufferSource } from '../../src/core/byte-source.ts';
import { DomainError, EnvironmentError, UsageError, XlsnapError } from '../../src/core/errors.ts';
import { configChanges, describeChanges } from '../../src/memfile/config-changes.ts';
import { configDisks, domainIdentity, LibxlConfigError, withImages } from '../../src/memfile/libxl-config.ts';
import { parseLibxlJson, printLibxlJson } from '../../src/memfile/libxl-json.ts';
import { ManifestError, parseManifest } from '../../src/memfile/manifest.ts';
import type { QmpClient } from '../../src/qmp/client.ts';
import {
  queryBlock,
  queryBlockJobs,
  queryNamedBlockNodes,
  queryStatus,
  queryVdev,
} from '../../src/qmp/commands.ts';
import { QmpProtocolError } from '../../src/qmp/errors.ts';
import { classify } from '../../src/qmp/messages.ts';
import { LineSplitter, parseLine } from '../../src/qmp/wire.ts';
import { readStream, verifyStream, xlConfigText } from '../../src/savefmt/index.ts';
import { type BlockFacts, matchDisks, readStoredDisks } from '../../src/toolstack/qemu/disks.ts';
import { parseDomainConfig } from '../../src/toolstack/xl/commands.ts';
import type { XenstoreAccess } from '../../src/xenstore/access.ts';
import { XenstoreProtocolError } from '../../src/xenstore/errors.ts';
import {
  encodeMessage,
  joinStrings,
  MESSAGE,
  MessageSplitter,
  splitStrings,
} from '../../src/xenstore/wire.ts';
import {
  cpuPolicy,
  hvmFile,
  hvmState,
  join,
  libxcHeaders,
  pageData,
  pvContext,
  record,
  saveFile,
} from '../support/naive-stream.ts';
import { CFGFILE_WORDS, MANIFEST } from '../support/samples.ts';
import { benchResult } from '../unit/bench/samples.ts';
import { bytes, type Material, type Random } from './mutate.ts';

export interface Target extends Material {
  /** Runs a target. Throws anything that is a bug: all but the typed errors that an input may cause. */
  run(input: Uint8Array, random: Random): Promise<void> | void;
}

const DOMID = toDomid(7);
const none: readonly Uint8Array[] = [];
const list = (...texts: string[]): readonly Uint8Array[] => texts.map(bytes);

function fixture(name: string): Uint8Array {
  return gunzipSync(readFileSync(new URL(`../../fixtures/savefmt/${name}.xlsave.gz`, import.meta.url)));
}

/** Accepts a typed error: of one kind, and with an offset in the input, where the format has that. */
function mustBe(error: unknown, Kind: abstract new (...args: never[]) => Error): void {
  if (!(error instanceof Kind)) throw error;
}

/** Splits an input as a socket might. */
function* chopped(input: Uint8Array, random: Random): Generator<Uint8Array> {
  const most = random.pick([1, 7, 100, input.length + 1]);
  for (let at = 0; at < input.length; ) {
    const to = at + 1 + random.below(Math.max(most, Math.ceil(input.length / 500)));
    yield input.slice(at, to);
    at = to;
  }
}

const withoutPages = saveFile(
  join(libxcHeaders(2), ...cpuPolicy, record(0x10), pageData([5, 0xf], [6, 0xd]), ...hvmState, record(0)),
);

const stream: Target = {
  // Small inputs more often: each run makes a copy.
  seeds: [
    ...new Array<Uint8Array>(3).fill(withoutPages),
    ...new Array<Uint8Array>(3).fill(hvmFile()),
    saveFile(pvContext()),
    ...['hvm', 'pvh', 'pv'].map(fixture),
  ],
  words: none,
  head: 2500,
  longest: 256 * 1024,
  async run(input, random) {
    let refused: unknown;
    let items = 0;
    const source = new BufferSource(input);
    try {
      for await (const item of readStream(source)) {
        items++;
        ok(item.offset >= 0 && item.offset <= input.length);
        if (item.kind === 'xl-header' && random.below(2) === 0) xlConfigText(item.header);
        if (item.kind !== 'libxc-record' || item.record.name !== 'PAGE_DATA') continue;
        if (random.below(2) === 0) for await (const chunk of item.record.pages) ok(chunk.length > 0);
      }
      ok(source.offset <= input.length && items > 0);
    } catch (error) {
      mustBe(error, XlsnapError);
      refused = error;
    }
    if (refused instanceof XlsnapError) {
      ok(refused.exitCode === 9, `exit code ${refused.exitCode}`);
      ok(refused.offset === undefined || (refused.offset >= 0 && refused.offset <= input.length));
    }
    const report = await verifyStream(new BufferSource(input));
    ok(report.ok || report.findings.length > 0);
    for (const { offset, message } of report.findings) {
      ok(offset >= 0 && offset <= input.length && message !== '');
    }
    ok(report.facts.length <= input.length);
    ok(!report.facts.complete || refused === undefined || refused instanceof XlsnapError);
  },
};

const cfgfile: Target = {
  seeds: list(
    'name="s1"\ndescription="before \\"it\\""\nmemory_path="/srv/s1.save"\ndisks=[\'/srv/a.qcow2,qcow2,xvda\',\n  \',,xvdb\', ] # both\n',
    "# Snapshot of domain guest1\nname='it is'; disks = [ ',,hda' ]\ndisks += [\",,hdb\"]\n",
    'memory_path="/x"\nname+="a"\nname+="b"\n\n\ndisks=[]',
    '',
  ),
  words: list(
    ...CFGFILE_WORDS,
    ...['constructor', '\t', '\\n', '\\x41', '/a/../b', '\r\n'],
    ...['\u2028', '\u202e', 'é', '😀', '\0', '-', '..', '/', 'a'.repeat(300)],
  ),
  head: 200,
  longest: 1024 * 1024,
  run(input) {
    let config: ReturnType<typeof parseConfig>;
    try {
      config = parseConfig(input);
    } catch (error) {
      mustBe(error, ConfigError);
      const { findings, message } = error as ConfigError;
      ok(findings.length > 0 && findings.length <= 20 && message.length < 20_000);
      for (const { line = 1, column = 1 } of findings) ok(line >= 1 && column >= 1);
      return;
    }
    const { source, ...rest } = config;
    deepStrictEqual(Object.getPrototypeOf(config), Object.prototype);
    for (const key of Object.keys(rest)) ok(['name', 'description', 'memoryPath', 'disks'].includes(key));
    ok(source === 'cfgfile');
    if (rest.name !== undefined) ok(checkSnapshotName(rest.name) === undefined && !rest.name.includes('/'));
    if (rest.memoryPath !== undefined) ok(checkPath(rest.memoryPath) === undefined);
    if (rest.description !== undefined) ok(checkDescription(rest.description) === undefined);
    deepStrictEqual(parseConfig(printConfig(config)), config);
  },
};

const JSON_WORDS = [
  ...[
    '{',
    '}',
    '[',
    ']',
    ',',
    ':',
    '"',
    '\\"',
    '\\',
    'null',
    'true',
    '0',
    '-1',
    '1e999',
    '9007199254740993',
    '""',
  ],
  ...[
    '"__proto__":',
    '"constructor":',
    '"prototype":{}',
    '"toString":1',
    '\\u0000',
    '\\ud800',
    '[',
    '{"a":',
    ' ',
    '\n',
  ],
];

const manifest: Target = {
  seeds: [bytes(JSON.stringify(MANIFEST, null, 2)), bytes(JSON.stringify(MANIFEST))],
  words: list(
    ...JSON_WORDS,
    'xlsnap-manifest',
    'internal',
    'external',
    '"kind":"internal"',
    'crc32',
    'xxh3',
    '"version":2',
  ),
  head: 3000,
  longest: 1024 * 1024,
  run(input) {
    try {
      const read = parseManifest('m.json', Buffer.from(input).toString('utf8'));
      deepStrictEqual(parseManifest('m.json', JSON.stringify(read)), read);
      for (const disk of read.disks) ok(disk.kind === 'internal' || disk.kind === 'external');
    } catch (error) {
      mustBe(error, ManifestError);
      ok((error as ManifestError).message.length < 2000);
    }
  },
};

const RESULT = jsonLine('bench_result', benchResult);

const earlierBench: Target = {
  seeds: [bytes(RESULT), bytes(benchReport(benchResult, 'xlsnap bench', RESULT))],
  words: list(
    ...JSON_WORDS,
    EMBEDDED_START,
    EMBEDDED_END,
    '"paths":',
    '"runs":',
    '"wall_seconds":0',
    '"round":1',
  ),
  head: RESULT.length,
  longest: 1024 * 1024,
  run(input) {
    try {
      const earlier = parseEarlierBench('old.json', Buffer.from(input).toString('utf8'));
      for (const { wall } of compareBenches(benchResult, earlier).paths) {
        ok(wall === undefined || !Number.isNaN(wall.before.median));
      }
    } catch (error) {
      mustBe(error, UsageError);
      ok((error as UsageError).message.length < 2000);
    }
  },
};

const BLOCK_NODE = {
  'node-name': 'xvda-qcow2',
  drv: 'qcow2',
  file: '/g/a.qcow2',
  ro: false,
  encrypted: false,
  image: {
    'virtual-size': 4194304,
    'format-specific': { type: 'qcow2', data: { 'data-file': 'x' } },
    snapshots: [{ id: '1', name: 's1' }],
    'full-backing-filename': '/g/base',
    'backing-image': { filename: '/g/base', 'backing-filename': 'json:{"driver":"raw"}' },
  },
};

const qmp: Target = {
  seeds: list(
    '{"QMP": {"version": {"qemu": {"micro": 13, "minor": 0, "major": 10}, "package": "Debian"}, "capabilities": ["oob"]}}\n',
    '{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "BLOCK_JOB_READY", "data": {"device": "commit-x"}}\r\n',
    '{"id": "xlsnap-1", "error": {"class": "GenericError", "desc": "no \\"room\\""}}\n{"return": {}, "id": "xlsnap-2"}\n',
    `${JSON.stringify({ id: 'xlsnap-3', return: [{ device: '', qdev: '/m/d[2]', inserted: BLOCK_NODE }, { device: 'ide0' }] })}\n`,
    `${JSON.stringify({ id: 'xlsnap-4', return: [BLOCK_NODE, { ...BLOCK_NODE, 'node-name': 'xlsnap-xvda-1' }] })}\n`,
    `${JSON.stringify({ id: 'xlsnap-5', return: [{ device: 'j', type: 'commit', status: 'ready' }] })}\n`,
    `${JSON.stringify({ id: 'xlsnap-6', return: { status: 'running', running: true } })}\n`,
  ),
  words: list(
    ...JSON_WORDS,
    '\n',
    '\r\n',
    '"return":',
    '"error":',
    '"event":',
    '"id":"x"',
    '"QMP":',
    '"inserted":',
    '\xff',
  ),
  head: 400,
  longest: 256 * 1024,
  async run(input, random) {
    const splitter = new LineSplitter(200 * 1024);
    const values: unknown[] = [];
    try {
      for (const chunk of chopped(input, random)) {
        for (const line of splitter.push(chunk)) {
          if (line.trim() === '') continue;
          const message = classify(parseLine(line));
          if (message.kind === 'return') values.push(message.value);
        }
      }
    } catch (error) {
      mustBe(error, QmpProtocolError);
      ok((error as Error).message.length < 1000);
    }
    for (const value of values) await askWith(value);
  },
};

/** Answers every query with one value. */
async function askWith(value: unknown): Promise<void> {
  const client = { execute: () => Promise.resolve(value) } as unknown as QmpClient;
  const facts: { -readonly [K in keyof BlockFacts]: BlockFacts[K] } = { devices: [], nodes: [], jobs: [] };
  for (const ask of [
    async () => (facts.devices = await queryBlock(client)),
    async () => (facts.nodes = await queryNamedBlockNodes(client)),
    async () => (facts.jobs = (await queryBlockJobs(client)).map(({ id }) => id)),
    async () => {
      const vdev = await queryVdev(client, '/machine/unattached/device[2]');
      facts.devices = facts.devices.map((device) => ({ ...device, vdev }));
    },
    () => queryStatus(client),
  ]) {
    try {
      await ask();
    } catch (error) {
      mustBe(error, QmpProtocolError);
    }
  }
  const disk = { vdev: 'xvda', path: '/g/a.qcow2', format: 'qcow2', writable: true, cdrom: false };
  const [first] = matchDisks([disk], [], facts);
  ok(first !== undefined);
}

const reply = (type: number, requestId: number, ...strings: string[]): Uint8Array =>
  encodeMessage({ type, requestId, transactionId: 0, payload: joinStrings(...strings) });

const xenstore: Target = {
  seeds: [
    Buffer.concat([
      reply(MESSAGE.directory, 1, '51712', '51728'),
      reply(MESSAGE.read, 2, 'qcow2:/g/a.qcow2'),
    ]),
    Buffer.concat([
      reply(MESSAGE.error, 3, 'ENOENT'),
      reply(MESSAGE.watchEvent, 0, '@releaseDomain', 'xlsnap-1'),
    ]),
    reply(MESSAGE.read, 4, '/local/domain/0/backend/qdisk/7/51712'),
    reply(MESSAGE.transactionStart, 5, '17'),
    reply(MESSAGE.read, 6, 'w'),
  ],
  words: none,
  head: 40,
  longest: 64 * 1024,
  async run(input, random) {
    const splitter = new MessageSplitter();
    const texts: string[] = [];
    try {
      for (const chunk of chopped(input, random)) {
        for (const { payload } of splitter.push(chunk)) {
          ok(payload.length <= 4096);
          texts.push(...splitStrings(payload));
        }
      }
    } catch (error) {
      mustBe(error, XenstoreProtocolError);
    }
    // What was read is in the nodes of two disks, in any order.
    const text = (): string | undefined => (texts.length === 0 ? undefined : random.pick(texts));
    const access = {
      listMaybe: () => Promise.resolve(texts.slice(0, 4)),
      readMaybe: () => Promise.resolve(text()),
    } as unknown as XenstoreAccess;
    const disks = await readStoredDisks(7, access);
    for (const disk of matchDisks([], disks, { devices: [], nodes: [], jobs: [] })) {
      ok(disk.internal.length > 0 || !disk.writable || disk.cdrom);
    }
  },
};

const configText = JSON.stringify(
  {
    c_info: { type: 'hvm', name: 'guest1', uuid: '3f8d2c1e-1111-4222-8333-444455556666', domid: 7 },
    b_info: { max_memkb: 131072, shadow_memkb: 18446744073709551615n.toString(), vkb_device: 'False' },
    disks: [{ pdev_path: '/g/a.qcow2', vdev: 'xvda', format: 'qcow2', readwrite: 1, is_cdrom: 0 }],
    nics: [{ devid: 0, mac: '00:16:3e:00:00:01' }],
  },
  null,
  4,
).replace('"18446744073709551615"', '18446744073709551615');

const xlList: Target = {
  seeds: list(`[\n{"domid": 7, "config": ${configText}}\n]\n`, `{"domid": 7, "config": ${configText}}`),
  words: list(
    ...JSON_WORDS,
    '"config":',
    '"disks":',
    '"vdev":',
    '"c_info":{}',
    '18446744073709551616',
    '\\u0000integer:1',
  ),
  head: 1200,
  longest: 512 * 1024,
  run(input) {
    const text = Buffer.from(input).toString('utf8');
    let config: ReturnType<typeof parseDomainConfig>;
    try {
      config = parseDomainConfig(DOMID, text);
    } catch (error) {
      if (!(error instanceof DomainError)) mustBe(error, EnvironmentError);
      ok((error as Error).message.length < 1000);
      return;
    }
    try {
      ok(/^[0-9a-f-]{36}$/.test(domainIdentity(config).uuid));
    } catch (error) {
      mustBe(error, LibxlConfigError);
    }
    const disks = configDisks(config);
    const moved = withImages(
      config,
      disks.map(({ vdev }) => ({ vdev, path: '/o', format: 'qcow2' })),
    );
    for (const disk of configDisks(moved)) ok(disk.path === '/o');
    ok(configChanges(config, config).length === 0);
    for (const line of describeChanges(configChanges(config, { b_info: {} }), 5)) ok(line.length < 10_000);
    const printed = printLibxlJson(config);
    ok(printLibxlJson(parseLibxlJson(printed)) === printed);
  },
};

export const targets = {
  stream,
  cfgfile,
  manifest,
  qmp,
  xenstore,
  'xl-list': xlList,
  'bench-baseline': earlierBench,
} as const;
export type TargetName = keyof typeof targets;

/** Throws if an input has changed the prototypes that all objects share. */
export function checkPrototypes(): void {
  for (const prototype of [Object.prototype, Array.prototype]) {
    for (const key in prototype) throw new Error(`a prototype was polluted: ${key}`);
  }
}

import { createServer } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { QmpClient, qmpSocketPaths } from '../../../src/qmp/client.ts';
import {
  QmpClosedError,
  QmpCommandError,
  QmpConnectError,
  QmpProtocolError,
  QmpTimeoutError,
} from '../../../src/qmp/errors.ts';
import { FAKE_GREETING, FakeQmpRefusal, FakeQmpServer } from '../../../src/qmp/testing.ts';
import { MAX_LINE } from '../../../src/qmp/wire.ts';
import { tempDir } from '../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let path: string;
beforeEach(async () => {
  directory = await tempDir();
  path = join(directory.path, 'qmp');
});
afterEach(() => directory[Symbol.asyncDispose]());

const hang = (): Promise<never> => new Promise(() => {});

describe('opening', () => {
  it('reads the version, negotiates, and is ready', async () => {
    await using server = await FakeQmpServer.listen(path);
    const client = new QmpClient(path);
    expect(client.state).toBe('idle');
    const opening = client.open();
    expect(client.state).toBe('connecting');
    await opening;
    expect(client.state).toBe('ready');
    expect(client.version).toMatchObject({ major: 10, minor: 0, micro: 13 });
    expect(server.received).toEqual([{ execute: 'qmp_capabilities', arguments: undefined }]);
    await client.close();
    expect(client.state).toBe('closed');
    await expect(client.open()).rejects.toBeInstanceOf(QmpClosedError);
  });

  it('reports a socket in use if a second client is not greeted, and serves it once it is free', async () => {
    await using _ = await FakeQmpServer.listen(path, { 'query-name': () => ({}) });
    const first = await QmpClient.connect(path);
    await expect(QmpClient.connect(path, { timeoutMs: 50 })).rejects.toMatchObject({
      name: 'QmpConnectError',
      code: 'QMP_BUSY',
      message: expect.stringContaining('another client'),
    });
    await first.close();
    await using second = await QmpClient.connect(path);
    await expect(second.execute('query-name')).resolves.toEqual({});
  });

  it('names a missing socket', async () => {
    await expect(QmpClient.connect(path)).rejects.toMatchObject({
      name: 'QmpConnectError',
      message: `cannot connect to ${path}: ENOENT`,
      exitCode: 13,
    });
  });

  it('takes the first socket that answers, and reports all if none does', async () => {
    await using _ = await FakeQmpServer.listen(path);
    await using client = await QmpClient.connectFirst([`${path}-not`, path]);
    expect(client.path).toBe(path);
    const failure = QmpClient.connectFirst([`${path}-not`, `${path}-neither`]);
    await expect(failure).rejects.toBeInstanceOf(QmpConnectError);
    await expect(failure).rejects.toThrow(/qmp-not: ENOENT.*qmp-neither: ENOENT/);
    expect(qmpSocketPaths(5)).toEqual(['/var/run/xen/qmp-libxenstat-5', '/var/run/xen/qmp-libxl-5']);
  });

  it('is interrupted by its signal', async () => {
    await using _ = await FakeQmpServer.listen(path, { qmp_capabilities: hang });
    const controller = new AbortController();
    const opening = QmpClient.connect(path, { signal: controller.signal });
    setTimeout(() => controller.abort(), 20);
    await expect(opening).rejects.toMatchObject({ code: 'INTERRUPTED' });
  });

  it.each([
    ['an answer before the greeting', { return: {}, id: 'x' }, /no greeting/],
    ['an event before the greeting', { event: 'STOP' }, /no greeting/],
    ['a greeting without version', { QMP: { capabilities: [] } }, /malformed greeting/],
    ['something else', { hello: 1 }, /malformed message/],
  ])('refuses %s', async (_, greeting, message) => {
    await using _server = await FakeQmpServer.listen(path, {}, greeting);
    const opening = QmpClient.connect(path);
    await expect(opening).rejects.toBeInstanceOf(QmpProtocolError);
    await expect(opening).rejects.toThrow(message);
  });

  it('fails as a connection if QEMU hangs up or refuses the negotiation', async () => {
    await using server = await FakeQmpServer.listen(path, { qmp_capabilities: (_, s) => s.hangUp() });
    await expect(QmpClient.connect(path)).rejects.toBeInstanceOf(QmpConnectError);
    await server[Symbol.asyncDispose]();
    await using _ = await FakeQmpServer.listen(path, {
      qmp_capabilities: () => {
        throw new FakeQmpRefusal('no');
      },
    });
    await expect(QmpClient.connect(path)).rejects.toBeInstanceOf(QmpConnectError);
  });
});

describe('commands', () => {
  it('get their own answers, in whatever order', async () => {
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    await using _ = await FakeQmpServer.listen(path, {
      slow: async () => {
        await gate;
        return 'slow';
      },
      quick: () => {
        release();
        return 'quick';
      },
    });
    await using client = await QmpClient.connect(path);
    await expect(Promise.all([client.execute('slow'), client.execute('quick')])).resolves.toEqual([
      'slow',
      'quick',
    ]);
  });

  it('keep the class, text and arguments of a refusal', async () => {
    await using _ = await FakeQmpServer.listen(path, {
      eject: () => {
        throw new FakeQmpRefusal('no medium', 'DeviceNotFound');
      },
    });
    await using client = await QmpClient.connect(path);
    const error = await client.execute('eject', { id: 'cd' }).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(QmpCommandError);
    expect(error).toMatchObject({
      errorClass: 'DeviceNotFound',
      description: 'no medium',
      command: 'eject',
      arguments: { id: 'cd' },
      exitCode: 8,
    });
    expect(client.state).toBe('ready');
  });

  it('time out or are interrupted individually; their late answers are dropped', async () => {
    const release: (() => void)[] = [];
    await using server = await FakeQmpServer.listen(path, {
      slow: () => new Promise((resolve) => release.push(() => resolve({}))),
      quick: () => 1,
    });
    await using client = await QmpClient.connect(path);
    await expect(client.execute('slow', undefined, { timeoutMs: 10 })).rejects.toBeInstanceOf(
      QmpTimeoutError,
    );
    const controller = new AbortController();
    const interrupted = client.execute('slow', undefined, { signal: controller.signal });
    setTimeout(() => controller.abort(), 10);
    await expect(interrupted).rejects.toMatchObject({ code: 'INTERRUPTED' });
    for (const answer of release) answer();
    server.send({ return: {}, id: 'never asked' });
    await expect(client.execute('quick')).resolves.toBe(1);
  });

  it.each([
    [
      'QEMU hangs up',
      (server: FakeQmpServer) => server.hangUp(),
      QmpClosedError,
      /(closed the connection|connection on .* broke)/,
    ],
    [
      'malformed JSON',
      (server: FakeQmpServer) => server.sendRaw('{"return"\n'),
      QmpProtocolError,
      /malformed JSON/,
    ],
    [
      'no object',
      (server: FakeQmpServer) => server.sendRaw('[1]\n'),
      QmpProtocolError,
      /something other than a JSON object/,
    ],
    [
      'no UTF-8',
      (server: FakeQmpServer) => server.sendRaw(new Uint8Array([0xff, 10])),
      QmpProtocolError,
      /UTF-8/,
    ],
    [
      'an error without id',
      (server: FakeQmpServer) => server.send({ error: { class: 'GenericError', desc: 'JSON parse error' } }),
      QmpProtocolError,
      /could not read a command: JSON parse error/,
    ],
    [
      'an answer without id',
      (server: FakeQmpServer) => server.send({ return: {} }),
      QmpProtocolError,
      /answer/,
    ],
    ['a second greeting', (server: FakeQmpServer) => server.send(FAKE_GREETING), QmpProtocolError, /second/],
    [
      'a line over the limit',
      (server: FakeQmpServer) => server.sendRaw(new Uint8Array(MAX_LINE + 1).fill(0x20)),
      QmpProtocolError,
      /longer than 10485760/,
    ],
  ])('all fail with the cause if the session ends: %s', async (_, end, kind, message) => {
    await using server = await FakeQmpServer.listen(path, { slow: hang });
    await using client = await QmpClient.connect(path);
    using listener = client.listen(['STOP']);
    const outcomes = Promise.allSettled([client.execute('slow'), client.execute('slow'), listener.next()]);
    end(server);
    for (const outcome of await outcomes) {
      expect(outcome.status).toBe('rejected');
      const reason: unknown = outcome.status === 'rejected' ? outcome.reason : undefined;
      expect(reason).toBeInstanceOf(kind);
      expect(String(reason)).toMatch(message);
    }
    expect(client.state).toBe('closed');
    await expect(client.execute('slow')).rejects.toBeInstanceOf(kind);
    await expect(client.listen(['STOP']).next()).rejects.toBeInstanceOf(kind);
  });

  it('fail if the client itself closes', async () => {
    await using _ = await FakeQmpServer.listen(path, { slow: hang });
    const client = await QmpClient.connect(path);
    const pending = expect(client.execute('slow')).rejects.toBeInstanceOf(QmpClosedError);
    await client.close();
    await client.close();
    await pending;
  });
});

describe('events', () => {
  it('are not missed if they come before the answer of their command', async () => {
    await using _ = await FakeQmpServer.listen(path, {
      stop: (_, server) => {
        server.event('STOP', { reason: 'asked' });
        return {};
      },
    });
    await using client = await QmpClient.connect(path);
    using stopped = client.listen(['STOP', 'RESUME']);
    await client.execute('stop');
    expect(await stopped.next({ timeoutMs: 1000 })).toEqual({
      event: 'STOP',
      data: { reason: 'asked' },
      timestamp: 1_700_000_000.25,
    });
  });

  it('go to those who asked for them, until they have enough', async () => {
    await using server = await FakeQmpServer.listen(path, { sync: () => 0 });
    await using client = await QmpClient.connect(path);
    const stop = client.listen(['STOP']);
    using both = client.listen(['STOP', 'RESUME']);
    server.event('RESUME');
    server.event('STOP');
    await client.execute('sync');
    expect((await both.next()).event).toBe('RESUME');
    expect((await both.next()).event).toBe('STOP');
    expect((await stop.next()).event).toBe('STOP');
    await expect(stop.next({ timeoutMs: 10 })).rejects.toBeInstanceOf(QmpTimeoutError);
    const waiting = stop.next();
    stop[Symbol.dispose]();
    await expect(waiting).rejects.toBeInstanceOf(QmpClosedError);
  });
});

it('a dialogue that arrives byte by byte is read', async () => {
  const dialogue = [
    FAKE_GREETING,
    { event: 'STOP', data: { name: 'é€😀' } },
    { return: 'été', id: 'xlsnap-1' },
  ];
  const bytes = new TextEncoder().encode(dialogue.map((line) => `${JSON.stringify(line)}\r\n`).join(''));
  const server = createServer((socket) => {
    const greetingEnd = bytes.indexOf(10) + 1;
    const send = async (from: number, to: number): Promise<void> => {
      for (let at = from; at < to; at++) {
        await new Promise<void>((resolve) => socket.write(bytes.subarray(at, at + 1), () => resolve()));
        await new Promise((resolve) => setImmediate(resolve));
      }
    };
    let commands = 0;
    void send(0, greetingEnd);
    socket.on('data', () => {
      if (++commands === 1) socket.write('{"return": {}, "id": "xlsnap-0"}\n');
      else void send(greetingEnd, bytes.length);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  await using client = await QmpClient.connect(path);
  using stop = client.listen(['STOP']);
  await expect(client.execute('anything')).resolves.toBe('été');
  expect((await stop.next()).data).toEqual({ name: 'é€😀' });
  server.close();
});

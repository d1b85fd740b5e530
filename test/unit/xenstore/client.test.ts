import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { XenstoreClient, xenstoreSocketPath } from '../../../src/xenstore/client.ts';
import {
  isXenstoreErrno,
  XenstoreClosedError,
  XenstoreConnectError,
  XenstoreProtocolError,
  XenstoreTimeoutError,
} from '../../../src/xenstore/errors.ts';
import { FakeXenstored } from '../../../src/xenstore/testing.ts';
import { encodeMessage, joinStrings, MESSAGE } from '../../../src/xenstore/wire.ts';
import { tempDir } from '../../support/temp.ts';

let directory: Awaited<ReturnType<typeof tempDir>>;
let path: string;
beforeEach(async () => {
  directory = await tempDir();
  path = join(directory.path, 'socket');
});
afterEach(() => directory[Symbol.asyncDispose]());

const nodes = { '/local/domain/7/name': 'guest', '/local/domain/7/memory/target': '65536' };

describe('nodes', () => {
  it('are read, listed, written and removed', async () => {
    await using server = await FakeXenstored.listen(path, nodes);
    await using client = await XenstoreClient.connect({ path });
    expect(await client.read('/local/domain/7/name')).toBe('guest');
    expect(await client.list('/local/domain/7')).toEqual(['memory', 'name']);
    expect(await client.list('/local/domain/7/name')).toEqual([]);
    await client.write('/tool/a/b', 'é');
    expect(server.get('/tool/a/b')).toBe('é');
    await client.mkdir('/tool/a/b');
    expect(await client.read('/tool/a/b')).toBe('é');
    await client.remove('/tool');
    expect(await client.readMaybe('/tool/a')).toBeUndefined();
  });

  it('are listed even if one message cannot hold them, and others are added in the meantime', async () => {
    const domains = Array.from({ length: 1500 }, (_, i) => String(i + 10_000));
    const many = Object.fromEntries(domains.map((domid) => [`/local/domain/${domid}/name`, 'g']));
    await using server = await FakeXenstored.listen(path, many);
    await using client = await XenstoreClient.connect({ path });
    expect(await client.list('/local/domain')).toEqual(domains);
    let parts = 0;
    server.intercept = ({ type }) => {
      // Between two parts of the first listing.
      if (type === MESSAGE.directoryPart && ++parts === 2) server.set('/local/domain/9/name', 'h');
      return false;
    };
    expect(await client.list('/local/domain')).toEqual([...domains, '9'].sort());
    await expect(client.list('/local/none')).rejects.toMatchObject({ errno: 'ENOENT' });
  });

  it('are read leniently if one of many is looked for and a value is not text', async () => {
    await using _ = await FakeXenstored.listen(path, nodes);
    await using client = await XenstoreClient.connect({ path });
    await client.write('/local/domain/8/name', new Uint8Array([0x6b, 0xe4, 0x73, 0x65]));
    expect(await client.readMaybe('/local/domain/8/name')).toBe('k\ufffdse');
  });

  it('may hold any bytes', async () => {
    await using _ = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    const bytes = new Uint8Array([0, 1, 0xff, 0, 0x80]);
    await client.write('/x', bytes);
    expect(await client.readBytes('/x')).toEqual(bytes);
    await expect(client.read('/x')).rejects.toBeInstanceOf(XenstoreProtocolError);
    await client.write('/x', '');
    expect(await client.read('/x')).toBe('');
  });

  it('give ENOENT with the path if they are missing; the connection continues', async () => {
    await using _ = await FakeXenstored.listen(path, nodes);
    await using client = await XenstoreClient.connect({ path });
    const error = await client.read('/nope').catch((caught: unknown) => caught);
    expect(error).toMatchObject({ errno: 'ENOENT', message: 'xenstore: read /nope: ENOENT', exitCode: 7 });
    expect(isXenstoreErrno(error, 'ENOENT')).toBe(true);
    expect(isXenstoreErrno(error, 'EACCES')).toBe(false);
    expect(isXenstoreErrno(new Error('ENOENT'), 'ENOENT')).toBe(false);
    await expect(client.list('/nope')).rejects.toMatchObject({ errno: 'ENOENT' });
    await expect(client.remove('/nope/x')).rejects.toMatchObject({ errno: 'ENOENT' });
    expect(await client.read('/local/domain/7/name')).toBe('guest');
  });

  it('are not asked for if the request would be wrong or too long', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    await expect(client.read('relative')).rejects.toMatchObject({ code: 'XENSTORE_PATH' });
    await expect(client.write('/a\0b', 'x')).rejects.toMatchObject({ code: 'XENSTORE_PATH' });
    await expect(client.watch('/a\0b')).rejects.toMatchObject({ code: 'XENSTORE_PATH' });
    await expect(client.write('/x', 'v'.repeat(4094))).rejects.toMatchObject({ code: 'XENSTORE_TOO_LONG' });
    expect(server.received).toEqual([]);
    await client.write('/x', 'v'.repeat(4093));
    expect(server.get('/x')?.length).toBe(4093);
  });

  it('are untouched when xenstored is informed of a resumed domain', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    await client.resumeDomain(7);
    expect(server.received).toEqual([MESSAGE.resume]);
  });
});

describe('watches', () => {
  it('fire at once, then at each change at or below, until disposed of', async () => {
    await using server = await FakeXenstored.listen(path, nodes);
    await using client = await XenstoreClient.connect({ path });
    const watch = await client.watch('/local/domain/7');
    await using other = await client.watch('/local/domain/7');
    expect(await watch.next()).toBe('/local/domain/7');
    expect(await other.next()).toBe('/local/domain/7');
    server.set('/local/domain/70', 'no child of it');
    server.set('/local/domain/7/control/shutdown', '');
    expect(await watch.next()).toBe('/local/domain/7/control/shutdown');
    await expect(watch.next({ timeoutMs: 10 })).rejects.toBeInstanceOf(XenstoreTimeoutError);
    const waiting = watch.next();
    waiting.catch(() => {});
    await watch[Symbol.asyncDispose]();
    await watch[Symbol.asyncDispose]();
    await expect(waiting).rejects.toBeInstanceOf(XenstoreClosedError);
    expect(server.received.filter((type) => type === MESSAGE.unwatch)).toHaveLength(1);
    expect(await other.next()).toBe('/local/domain/7/control/shutdown');
  });

  it('can be iterated, and join equal events that wait', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    const watch = await client.watch('@releaseDomain');
    expect(await watch.next()).toBe('@releaseDomain');
    server.announce('@releaseDomain');
    server.announce('@releaseDomain');
    await client.mkdir('/sync');
    expect(await watch.next()).toBe('@releaseDomain');
    await expect(watch.next({ timeoutMs: 10 })).rejects.toBeInstanceOf(XenstoreTimeoutError);
    server.announce('@releaseDomain');
    const seen: string[] = [];
    for await (const event of watch) {
      seen.push(event);
      await watch[Symbol.asyncDispose]();
    }
    expect(seen).toEqual(['@releaseDomain']);
  });

  it('fail if the connection ends', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    await using watch = await client.watch('/x');
    await watch.next();
    const waiting = watch.next();
    server.hangUp();
    await expect(waiting).rejects.toBeInstanceOf(XenstoreClosedError);
  });
});

describe('transactions', () => {
  it('show nothing outside before they are done', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    const result = await client.transaction(async (access) => {
      await access.write('/a', '1');
      expect(await access.read('/a')).toBe('1');
      expect(server.get('/a')).toBeUndefined();
      return 'done';
    });
    expect(result).toBe('done');
    expect(server.get('/a')).toBe('1');
  });

  it('leave nothing if the work throws', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    const failure = new Error('own');
    let runs = 0;
    await expect(
      client.transaction(async (access) => {
        runs++;
        await access.write('/a', '1');
        throw failure;
      }),
    ).rejects.toBe(failure);
    expect(runs).toBe(1);
    expect(server.get('/a')).toBeUndefined();
    expect(server.received.at(-1)).toBe(MESSAGE.transactionEnd);
  });

  it('run again on a conflict, but not forever', async () => {
    await using server = await FakeXenstored.listen(path, { '/count': '0' });
    await using client = await XenstoreClient.connect({ path });
    let runs = 0;
    await client.transaction(async (access) => {
      const count = Number(await access.read('/count'));
      if (++runs === 1) server.set('/count', '10');
      await access.write('/count', String(count + 1));
    });
    expect(runs).toBe(2);
    expect(server.get('/count')).toBe('11');
    runs = 0;
    await expect(
      client.transaction(async (access) => {
        runs++;
        server.set('/other', String(runs));
        await access.write('/count', 'x');
      }),
    ).rejects.toMatchObject({ errno: 'EAGAIN' });
    expect(runs).toBe(32);
    expect(server.get('/count')).toBe('11');
  });
});

describe('the connection', () => {
  it('is looked for where Xen puts it', () => {
    expect(xenstoreSocketPath({ XENSTORED_PATH: '/a/s', XENSTORED_RUNDIR: '/b' })).toBe('/a/s');
    expect(xenstoreSocketPath({ XENSTORED_RUNDIR: '/b' })).toBe('/b/socket');
    expect(xenstoreSocketPath({})).toMatch(/^\/(var\/)?run\/xenstored\/socket$/);
  });

  it('reports where it looked', async () => {
    const failure = XenstoreClient.connect({ path });
    await expect(failure).rejects.toBeInstanceOf(XenstoreConnectError);
    await expect(failure).rejects.toMatchObject({ message: expect.stringContaining(path), exitCode: 13 });
  });

  it('gives up on a single request; the late answer is dropped', async () => {
    await using server = await FakeXenstored.listen(path, nodes);
    await using client = await XenstoreClient.connect({ path });
    let late = (): void => {};
    server.intercept = ({ requestId }, answer) => {
      late = () => answer({ type: MESSAGE.read, requestId, transactionId: 0, payload: joinStrings('late') });
      return true;
    };
    await expect(client.read('/local/domain/7/name', { timeoutMs: 10 })).rejects.toBeInstanceOf(
      XenstoreTimeoutError,
    );
    const controller = new AbortController();
    const interrupted = client.read('/local/domain/7/name', { signal: controller.signal });
    setTimeout(() => controller.abort(), 10);
    await expect(interrupted).rejects.toMatchObject({ code: 'INTERRUPTED' });
    late();
    server.intercept = () => false;
    expect(await client.read('/local/domain/7/name')).toBe('guest');
  });

  it('gives each answer to its own request', async () => {
    await using server = await FakeXenstored.listen(path);
    await using client = await XenstoreClient.connect({ path });
    const held: (() => void)[] = [];
    server.intercept = ({ requestId, payload }, answer) => {
      held.push(() =>
        answer({ type: MESSAGE.read, requestId, transactionId: 0, payload: payload.slice(0, -1) }),
      );
      if (held.length === 3) for (const send of held.reverse()) send();
      return true;
    };
    expect(await Promise.all([client.read('/a'), client.read('/b'), client.read('/c')])).toEqual([
      '/a',
      '/b',
      '/c',
    ]);
  });

  it.each([
    ['hangs up', (socket: Socket) => socket.destroy(), XenstoreClosedError],
    [
      'announces too much',
      (socket: Socket) => {
        const header = encodeMessage({ type: 2, requestId: 1, transactionId: 0, payload: new Uint8Array(0) });
        new DataView(header.buffer).setUint32(12, 4097, true);
        socket.write(header);
      },
      XenstoreProtocolError,
    ],
    [
      'answers with another type',
      (socket: Socket) =>
        socket.write(encodeMessage({ type: 1, requestId: 1, transactionId: 0, payload: joinStrings('x') })),
      XenstoreProtocolError,
    ],
    [
      'sends an event without token',
      (socket: Socket) =>
        socket.write(encodeMessage({ type: 15, requestId: 0, transactionId: 0, payload: joinStrings('/x') })),
      XenstoreProtocolError,
    ],
  ])('fails everything that is pending if the peer %s', async (_, misbehave, kind) => {
    const server = createServer((socket) => {
      socket.on('error', () => {});
      socket.on('data', () => misbehave(socket));
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    await using client = await XenstoreClient.connect({ path });
    const outcomes = await Promise.allSettled([client.read('/a'), client.read('/b')]);
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({ status: 'rejected', reason: expect.any(kind) });
    }
    await expect(client.read('/c')).rejects.toBeInstanceOf(kind);
    server.close();
  });

  it('fails what is pending if it is closed', async () => {
    await using server = await FakeXenstored.listen(path);
    server.intercept = () => true;
    const client = await XenstoreClient.connect({ path });
    const pending = expect(client.read('/a')).rejects.toBeInstanceOf(XenstoreClosedError);
    await client.close();
    await pending;
  });
});

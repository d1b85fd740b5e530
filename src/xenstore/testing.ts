/** A stand-in for xenstored, for tests. */
import { createServer, type Server, type Socket } from 'node:net';
import {
  encodeMessage,
  joinStrings,
  MAX_PAYLOAD,
  MESSAGE,
  MessageSplitter,
  type XenstoreMessage,
} from './wire.ts';

type Tree = Map<string, Uint8Array>;

/** Makes the stand-in answer with ERROR and this errno. */
class Refusal extends Error {}

interface Watch {
  readonly socket: Socket;
  readonly path: string;
  readonly token: string;
}

/** Keeps nodes, watches and transactions in memory. A commit fails with EAGAIN if anything changed in the meantime. */
export class FakeXenstored implements AsyncDisposable {
  readonly path: string;
  /** Types of the requests received, in order. */
  readonly received: number[] = [];
  /** Sees each request first. If it returns true, the stand-in stays silent. */
  intercept: (request: XenstoreMessage, answer: (message: XenstoreMessage) => void) => boolean = () => false;
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #tree: Tree = new Map([['/', new Uint8Array(0)]]);
  #generation = 0;
  #watches: Watch[] = [];
  readonly #transactions = new Map<number, { tree: Tree; generation: number; changed: Set<string> }>();
  #serial = 0;

  private constructor(path: string) {
    this.path = path;
    this.#server = createServer((socket) => this.#serve(socket));
  }

  /** Listens on the unix socket `path`, with these nodes. */
  static async listen(path: string, nodes: Readonly<Record<string, string>> = {}): Promise<FakeXenstored> {
    const fake = new FakeXenstored(path);
    for (const [node, value] of Object.entries(nodes)) fake.set(node, value);
    await new Promise<void>((resolve, reject) => {
      fake.#server.once('error', reject);
      fake.#server.listen(path, resolve);
    });
    return fake;
  }

  /** Writes a node, as another client would. */
  set(path: string, value: string): void {
    put(this.#tree, path, new TextEncoder().encode(value));
    this.#generation++;
    this.#fire(path);
  }

  /** Returns the value of a node as text. */
  get(path: string): string | undefined {
    const value = this.#tree.get(path);
    return value === undefined ? undefined : new TextDecoder().decode(value);
  }

  /** Fires the watches on a special path. */
  announce(special: string): void {
    this.#fire(special);
  }

  /** Closes all connections. */
  hangUp(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.hangUp();
    await closed;
  }

  #serve(socket: Socket): void {
    const messages = new MessageSplitter();
    this.#sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#sockets.delete(socket);
      this.#watches = this.#watches.filter((watch) => watch.socket !== socket);
    });
    socket.on('data', (chunk: Uint8Array) => {
      for (const request of messages.push(chunk)) this.#answer(socket, request);
    });
  }

  #answer(socket: Socket, request: XenstoreMessage): void {
    this.received.push(request.type);
    const { type, requestId, transactionId } = request;
    const send = (message: XenstoreMessage): void => {
      socket.write(encodeMessage(message));
    };
    if (this.intercept(request, send)) return;
    try {
      send({ type, requestId, transactionId, payload: this.#handle(socket, request) });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      send({ type: MESSAGE.error, requestId, transactionId, payload: joinStrings(error.message) });
    }
  }

  #handle(socket: Socket, { type, transactionId, payload }: XenstoreMessage): Uint8Array {
    const [path, rest] = cut(payload);
    const transaction = this.#transactions.get(transactionId);
    if (transactionId !== 0 && transaction === undefined) throw new Refusal('ENOENT');
    const tree = transaction?.tree ?? this.#tree;
    const changed = (): Uint8Array => {
      if (transaction !== undefined) transaction.changed.add(path);
      else {
        this.#generation++;
        this.#fire(path);
      }
      return joinStrings('OK');
    };
    switch (type) {
      case MESSAGE.read: {
        const value = tree.get(path);
        if (value === undefined) throw new Refusal('ENOENT');
        return value;
      }
      case MESSAGE.directory:
        if (!tree.has(path)) throw new Refusal('ENOENT');
        return fitting(joinStrings(...children(tree, path)));
      case MESSAGE.directoryPart: {
        if (!tree.has(path)) throw new Refusal('ENOENT');
        const names = joinStrings(...children(tree, path));
        const generation = joinStrings(String(this.#generation));
        const offset = Number(cut(rest)[0]);
        const room = MAX_PAYLOAD - generation.length - 1;
        const isLast = names.length - offset <= room;
        // Whole names only; after the last name of all comes an empty one.
        const end = isLast ? names.length : names.lastIndexOf(0, offset + room - 1) + 1;
        return Buffer.concat([generation, names.subarray(offset, end), new Uint8Array(isLast ? 1 : 0)]);
      }
      case MESSAGE.write:
        put(tree, path, rest);
        return changed();
      case MESSAGE.mkdir:
        if (tree.has(path)) return joinStrings('OK');
        put(tree, path, new Uint8Array(0));
        return changed();
      case MESSAGE.remove:
        if (!tree.has(parent(path))) throw new Refusal('ENOENT');
        for (const node of [...tree.keys()]) {
          if (node === path || node.startsWith(`${path}/`)) tree.delete(node);
        }
        return changed();
      case MESSAGE.watch: {
        const token = cut(rest)[0];
        if (this.#watches.some((w) => w.socket === socket && w.path === path && w.token === token)) {
          throw new Refusal('EEXIST');
        }
        this.#watches.push({ socket, path, token });
        this.#tell({ socket, path, token }, path);
        return joinStrings('OK');
      }
      case MESSAGE.unwatch: {
        const token = cut(rest)[0];
        const left = this.#watches.filter((w) => w.socket !== socket || w.path !== path || w.token !== token);
        if (left.length === this.#watches.length) throw new Refusal('ENOENT');
        this.#watches = left;
        return joinStrings('OK');
      }
      case MESSAGE.transactionStart: {
        const id = ++this.#serial;
        const copy = { tree: new Map(this.#tree), generation: this.#generation, changed: new Set<string>() };
        this.#transactions.set(id, copy);
        return joinStrings(String(id));
      }
      case MESSAGE.transactionEnd: {
        if (transaction === undefined) throw new Refusal('ENOENT');
        this.#transactions.delete(transactionId);
        if (path === 'F') return joinStrings('OK');
        if (transaction.generation !== this.#generation) throw new Refusal('EAGAIN');
        this.#tree = transaction.tree;
        this.#generation++;
        for (const node of transaction.changed) this.#fire(node);
        return joinStrings('OK');
      }
      case MESSAGE.resume:
        return joinStrings('OK');
      default:
        throw new Refusal('ENOSYS');
    }
  }

  #fire(path: string): void {
    for (const watch of this.#watches) {
      if (watch.path === '/' || path === watch.path || path.startsWith(`${watch.path}/`))
        this.#tell(watch, path);
    }
  }

  #tell(watch: Watch, path: string): void {
    const payload = joinStrings(path, watch.token);
    watch.socket.write(encodeMessage({ type: MESSAGE.watchEvent, requestId: 0, transactionId: 0, payload }));
  }
}

function fitting(payload: Uint8Array): Uint8Array {
  if (payload.length > MAX_PAYLOAD) throw new Refusal('E2BIG');
  return payload;
}

function cut(payload: Uint8Array): [string, Uint8Array] {
  const at = payload.indexOf(0);
  if (at < 0) throw new Refusal('EINVAL');
  return [new TextDecoder().decode(payload.subarray(0, at)), payload.subarray(at + 1)];
}

function parent(path: string): string {
  return path.slice(0, Math.max(1, path.lastIndexOf('/')));
}

function put(tree: Tree, path: string, value: Uint8Array): void {
  for (let at = parent(path); !tree.has(at); at = parent(at)) tree.set(at, new Uint8Array(0));
  tree.set(path, value);
}

function children(tree: Tree, path: string): string[] {
  return [...tree.keys()]
    .filter((node) => node !== '/' && parent(node) === path)
    .map((node) => node.slice(node.lastIndexOf('/') + 1))
    .sort();
}

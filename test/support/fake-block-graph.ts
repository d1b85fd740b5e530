/**
 * QEMU's block graph for one disk of xen-block's, behind QMP: as picky about nodes and job ids as QEMU is (blockdev.c, block.c,
 * job.c), and with nodes that the monitor keeps.
 */
import { type FakeQmpHandler, FakeQmpRefusal, type FakeQmpServer } from '../../src/qmp/testing.ts';

interface FakeNode {
  readonly file: string;
  /** Name of the node that it is on. */
  backing?: string | undefined;
  /** Whether it was added by `blockdev-add`, so that it stays when nothing uses it. */
  readonly owned: boolean;
}

type Args = Readonly<Record<string, unknown>>;

export class FakeBlockGraph {
  readonly nodes = new Map<string, FakeNode>();
  /** Names of nodes that another program uses. */
  readonly used = new Set<string>();
  /** The node that the device is on. */
  top: string;
  readonly #jobs = new Map<string, string>();

  /**
   * Starts a domain's disk on a chain of images.
   * @param files top first
   */
  constructor(files: readonly string[]) {
    const names = files.map((_, at) => (at === 0 ? 'xvda-qcow2' : `#block${at}00`));
    for (const [at, file] of files.entries()) {
      this.nodes.set(names[at] ?? '', { file, backing: names[at + 1], owned: at === 0 });
    }
    this.top = names[0] ?? '';
  }

  readonly handlers: Readonly<Record<string, FakeQmpHandler>> = {
    'query-block': () => [
      { device: '', qdev: '/machine/unattached/device[2]', inserted: this.#describe(this.top) },
    ],
    'query-named-block-nodes': () => [...this.nodes.keys()].map((name) => this.#describe(name)),
    'query-block-jobs': () =>
      [...this.#jobs.keys()].map((device) => ({ device, type: 'commit', status: 'ready' })),
    'qom-get': ({ property }) => {
      if (property !== 'vdev') throw new FakeQmpRefusal(`Property '.${property}' not found`);
      return 'xvda0';
    },
    'block-commit': (args, server) => this.#commit(args, server),
    'block-job-complete': ({ device }, server) => this.#complete(String(device), server),
    'block-job-cancel': ({ device }) => {
      this.#jobs.delete(String(device));
      return {};
    },
    'blockdev-del': (args) => this.#delete(String(args['node-name'])),
  };

  #commit({ 'job-id': id, device, base }: Args, server: FakeQmpServer): unknown {
    const node = this.nodes.get(String(device));
    if (node === undefined)
      throw new FakeQmpRefusal(`Cannot find device='${device}' nor node-name='${device}'`);
    if (this.#isUsed(String(device))) throw new FakeQmpRefusal('Need a root block node');
    if (!/^[A-Za-z][A-Za-z0-9_.-]*$/.test(String(id))) throw new FakeQmpRefusal(`Invalid job ID '${id}'`);
    if (this.nodes.get(node.backing ?? '')?.file !== base) {
      throw new FakeQmpRefusal(`Can't find '${base}' in the backing chain`);
    }
    this.#jobs.set(String(id), String(device));
    server.event('BLOCK_JOB_READY', { device: id, type: 'commit' });
    return {};
  }

  #complete(id: string, server: FakeQmpServer): unknown {
    const source = this.#jobs.get(id) ?? '';
    const node = this.nodes.get(source);
    this.#jobs.delete(id);
    if (this.top === source) this.top = node?.backing ?? '';
    if (node?.owned === false) this.nodes.delete(source);
    server.event('BLOCK_JOB_COMPLETED', { device: id, type: 'commit' });
    return {};
  }

  #delete(name: string): unknown {
    const node = this.nodes.get(name);
    if (node === undefined) throw new FakeQmpRefusal(`Failed to find node with node-name='${name}'`);
    if (this.top === name || this.used.has(name)) throw new FakeQmpRefusal(`Node ${name} is in use`);
    if (this.#isUsed(name)) throw new FakeQmpRefusal(`Node '${name}' is busy: node is used as backing hd`);
    if (!node.owned) throw new FakeQmpRefusal(`Node ${name} is not owned by the monitor`);
    this.nodes.delete(name);
    return {};
  }

  #isUsed(name: string): boolean {
    return [...this.nodes.values()].some(({ backing }) => backing === name);
  }

  #describe(name: string): unknown {
    const node = this.nodes.get(name);
    const image = { 'virtual-size': 1 << 20 };
    const named = { 'node-name': name, drv: 'qcow2', file: node?.file, ro: false };
    return { ...named, image: { ...image, ...this.#below(name) } };
  }

  /** The chain below a node, as its image's description has it. */
  #below(name: string): object {
    const { backing = '' } = this.nodes.get(name) ?? {};
    const below = this.nodes.get(backing);
    if (below === undefined) return {};
    return { 'full-backing-filename': below.file, 'backing-image': this.#below(backing) };
  }
}

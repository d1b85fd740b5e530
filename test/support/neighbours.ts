import { toDomid } from '../../src/core/brand.ts';
import type { DomainState } from '../../src/snapshot/ports.ts';
import type { FakeHost } from '../../src/testing/fake-host.ts';

/** Domains of the same host that are not the fake's own; whoever destroys one of them is wrong. */
export interface Neighbour {
  readonly domid: number;
  readonly name: string;
  readonly uuid: string;
}

/** Gives a host further domains. As on a real host, digits that a user types are a domid, whatever domains are called. */
export function addNeighbours(host: FakeHost, neighbours: readonly Neighbour[]): { destroyed: number[] } {
  const { hypervisor, toolstack } = host;
  const own = {
    byName: toolstack.findByName.bind(toolstack),
    byUuid: toolstack.findByUuid.bind(toolstack),
    state: hypervisor.domainState.bind(hypervisor),
    destroy: toolstack.destroy.bind(toolstack),
  };
  const among = (test: (one: Neighbour) => boolean) => {
    const found = neighbours.find(test);
    return found === undefined ? undefined : toDomid(found.domid);
  };
  toolstack.findByName = async (name) => among((one) => one.name === name) ?? (await own.byName(name));
  toolstack.findByUuid = async (uuid) => among((one) => one.uuid === uuid) ?? (await own.byUuid(uuid));
  toolstack.findDomain = async (word) => {
    if (/^\d+$/.test(word)) return Number(word) < 32752 ? toDomid(Number(word)) : undefined;
    return (await toolstack.findByUuid(word.toLowerCase())) ?? (await toolstack.findByName(word));
  };
  hypervisor.domainState = async (domid) => {
    const found = neighbours.find((one) => one.domid === domid);
    if (found === undefined) return await own.state(domid);
    const { name, uuid } = found;
    const state: DomainState = {
      domid,
      name,
      uuid,
      type: 'pvh',
      paused: false,
      dying: false,
      shutdown: undefined,
      memoryBytes: 1 << 20,
    };
    return state;
  };
  const destroyed: number[] = [];
  toolstack.destroy = async (domid, options) => {
    destroyed.push(domid);
    await own.destroy(domid, options);
  };
  return { destroyed };
}

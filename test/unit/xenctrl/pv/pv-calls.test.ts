import { beforeEach, describe, expect, test } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import { ABIS } from '../../../../src/xenctrl/abi.ts';
import type { NativeArgument, NativeFunction } from '../../../../src/xenctrl/native.ts';
import { PvCalls, type PvCallsParts } from '../../../../src/xenctrl/pv/pv-calls.ts';
import { pvLayout } from '../../../support/pv-world.ts';

const DOMID = toDomid(7);
const BUFFER = 0x7f0000001000n;
const GET_EXT = 43;
const GET_XSAVE = 63;
const GET_MSRS = 72;

/** The answers of Xen, of one release. */
interface Answers {
  width: number;
  online: (vcpu: number) => boolean;
  extendedSize: number;
  xfeatureMask: bigint;
  /** Sizes of the xsave state: reported without a buffer, and written. */
  xsave: [bigint, bigint];
  msrs: [number, number];
  maxMfn: bigint;
}

let answers: Answers;
let buffers: number;
/** Lengths copied out of the buffer. */
let copied: number[];
/** interface_version and domain of each domctl. */
let domctls: [number, number][];

beforeEach(() => {
  buffers = 0;
  copied = [];
  domctls = [];
  answers = {
    width: 8,
    online: () => true,
    extendedSize: 64,
    xfeatureMask: 7n,
    xsave: [832n, 832n],
    msrs: [4, 2],
    maxMfn: 0xfffffn,
  };
});

const [abi] = ABIS;
if (abi === undefined) throw new Error('no release');

function calls(): PvCalls {
  const named = (name: string): NativeFunction => ({
    name,
    call: () => Promise.reject(new Error(name)),
    callHere: (...args) => {
      if (name === 'xc__hypercall_buffer_alloc_pages') {
        buffers++;
        expect(args).toHaveLength(3);
        return { value: BUFFER, errno: 0 };
      }
      if (name === 'xc__hypercall_buffer_free_pages') buffers--;
      return { value: 0, errno: 0 };
    },
    callFast: () => 0,
  });
  const ctrl = new Proxy({} as PvCallsParts['ctrl'], { get: (_, name) => named(String(name)) });
  return new PvCalls({
    abi: abi ?? ABIS[0],
    ctrl,
    xch: () => 1n,
    call: (fn, ...args) => answer(fn.name, args),
    copyOut: (address, length) => {
      expect(address).toBe(BUFFER);
      expect(buffers).toBe(1);
      copied.push(length);
      return new Uint8Array(length).fill(length === 8 ? 1 : 5, 0, length === 8 ? 2 : length);
    },
  } as PvCallsParts);
}

function answer(name: string, args: NativeArgument[]): number {
  const [, second, third] = args;
  switch (name) {
    case 'xc_domain_get_guest_width':
      (second as Uint32Array)[0] = answers.width;
      return 0;
    case 'xc_maximum_ram_page':
      (args[0] as BigUint64Array)[0] = answers.maxMfn;
      return 0;
    case 'xc_vcpu_getinfo':
      (third as Uint8Array)[4] = answers.online(Number(second)) ? 1 : 0;
      return 0;
    case 'xc_vcpu_getcontext':
      (third as Uint8Array).fill(0x30 + Number(second));
      return 0;
    case 'xc_memory_op': {
      const list = second as DataView;
      expect(list.getBigUint64(8, true)).toBe(BUFFER);
      list.setUint32(16, 1, true);
      return 0;
    }
    case 'xc_domctl':
      domctl(args[0] as DataView);
      return 0;
    default:
      throw new Error(name);
  }
}

/** struct xen_domctl: the command at 0, the union at 16. */
function domctl(view: DataView): void {
  domctls.push([view.getUint32(4, true), view.getUint16(8, true)]);
  switch (view.getUint32(0, true)) {
    case GET_EXT:
      view.setUint32(20, answers.extendedSize, true);
      break;
    case GET_XSAVE: {
      const handle = view.getBigUint64(40, true);
      view.setBigUint64(24, answers.xfeatureMask, true);
      view.setBigUint64(32, answers.xsave[handle === 0n ? 0 : 1], true);
      break;
    }
    case GET_MSRS:
      view.setUint32(20, answers.msrs[view.getBigUint64(24, true) === 0n ? 0 : 1], true);
      break;
    default:
      throw new Error(`domctl ${view.getUint32(0, true)}`);
  }
}

test('the layout depends on the width', () => {
  expect(calls().layout(DOMID)).toBe(pvLayout(8));
  answers.width = 4;
  expect(calls().layout(DOMID)).toBe(pvLayout(4));
  answers.width = 2;
  expect(() => calls().layout(DOMID)).toThrow(expect.objectContaining({ code: 'PV_WIDTH' }));
});

test('a host with memory above 16 TiB is refused', () => {
  expect(calls().maxMfn()).toBe(0xfffff);
  answers.maxMfn = 2n ** 32n;
  expect(() => calls().maxMfn()).toThrow(expect.objectContaining({ code: 'PV_HOST', exitCode: 13 }));
});

test('the m2p of 32-bit guests is found', async () => {
  expect(await calls().compatM2pMfn()).toBe(0x0101);
  expect(buffers).toBe(0);
});

describe('vCPUs', () => {
  test('have all their state if they are online', async () => {
    answers.online = (vcpu) => vcpu !== 1;
    const vcpus = await calls().vcpus(DOMID, 2, pvLayout(8));
    expect(vcpus.map(({ id }) => id)).toEqual([0, 2]);
    expect(vcpus[1]?.basic).toEqual(new Uint8Array(5168).fill(0x32));
    expect(vcpus[1]?.extended).toHaveLength(64);
    expect(vcpus[1]?.extended?.[0]).toBe(2);
    expect(vcpus[1]?.xsave).toHaveLength(832);
    expect(vcpus[1]?.msrs).toHaveLength(32);
    expect(copied).toEqual([832, 32, 832, 32]);
    expect(buffers).toBe(0);
    expect(new Set(domctls.map(String))).toEqual(new Set([`${abi?.domctlInterfaceVersion},${DOMID}`]));
  });

  test('lack what Xen does not have', async () => {
    Object.assign(answers, { extendedSize: 0, xfeatureMask: 0n, msrs: [0, 0] });
    const [vcpu] = await calls().vcpus(DOMID, 0, pvLayout(8));
    expect(vcpu).toMatchObject({ extended: undefined, xsave: undefined, msrs: undefined });
    Object.assign(answers, { xfeatureMask: 3n, xsave: [832n, 0n], msrs: [3, 0] });
    const [again] = await calls().vcpus(DOMID, 0, pvLayout(8));
    expect(again).toMatchObject({ xsave: undefined, msrs: undefined });
  });

  test('have a shorter context in a 32-bit guest', async () => {
    const [vcpu] = await calls().vcpus(DOMID, 0, pvLayout(4));
    expect(vcpu?.basic).toHaveLength(2800);
  });

  test.each<[string, Partial<Answers>]>([
    ['extended', { extendedSize: 129 }],
    ['xsave', { xsave: [2n ** 40n, 0n] }],
    ['xsave that grows', { xsave: [832n, 833n] }],
    ['MSRs', { msrs: [2 ** 31, 0] }],
  ])('are refused with impossible lengths: %s', async (_what, changes) => {
    Object.assign(answers, changes);
    await expect(calls().vcpus(DOMID, 0, pvLayout(8))).rejects.toThrow(RangeError);
    expect(buffers).toBe(0);
  });
});

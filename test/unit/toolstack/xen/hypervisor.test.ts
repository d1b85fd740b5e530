import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { toDomid } from '../../../../src/core/brand.ts';
import type { Limits } from '../../../../src/core/deadline.ts';
import { EventQueue } from '../../../../src/core/event-queue.ts';
import { XenHypervisor } from '../../../../src/toolstack/xen/hypervisor.ts';
import { type AbiProof, HVM_PARAM, SHUTDOWN, XenCallError } from '../../../../src/xenctrl/index.ts';
import { XenstoreTimeoutError } from '../../../../src/xenstore/index.ts';

const DOMID = toDomid(5);
const REQUEST = '/local/domain/5/control/shutdown';

/** One domain with xenstore; what the guest does about a request to suspend is `answer`. */
class FakeDomain {
  hvm = true;
  type = 'pvh';
  params = new Map<number, bigint>();
  reason: number | undefined;
  dying = false;
  there = true;
  /** Whether Xen refuses to report the domain. */
  broken = false;
  pauses = 0;
  shadow = false;
  free = 0;
  pod = { entries: 0, cachePages: 0 };
  policy = { leaves: new Uint8Array(24).fill(1), msrs: new Uint8Array(16).fill(2) };
  readonly log: string[] = [];
  readonly nodes = new Map([
    ['/local/domain/5/name', 'guest'],
    [REQUEST, ''],
  ]);
  answer: () => void = () => {};
  proof: AbiProof = 'real-xen';
  readonly #events = new Set<EventQueue<string>>();

  /** The guest has seen the request. */
  acknowledge(): void {
    this.nodes.set(REQUEST, '');
  }

  stop(reason: number): void {
    this.reason = reason;
    for (const queue of this.#events) queue.push('@releaseDomain');
  }

  suspendsAfter(ms: number): void {
    this.acknowledge();
    setTimeout(() => this.stop(SHUTDOWN.SHUTDOWN_suspend), ms);
  }

  hypervisor(): XenHypervisor {
    const unused = () => Promise.reject(new Error('not in this test'));
    const read = async (path: string) => (path === '/libxl/5/type' ? this.type : this.nodes.get(path));
    const write = async (path: string, value: string) => {
      this.log.push(`${path}=${value}`);
      this.nodes.set(path, value);
      if (value === 'suspend') this.answer();
    };
    return new XenHypervisor(
      {
        version: { major: 4, minor: 20, extra: '.1' },
        proof: this.proof,
        domainInfo: async () => {
          if (this.broken) throw new XenCallError('xc_domain_getinfolist', 1);
          if (!this.there) return undefined;
          return {
            uuid: '00000000-0000-0000-0000-000000000005',
            hvm: this.hvm,
            paused: this.pauses > 0,
            dying: this.dying,
            shutdownReason: this.reason,
            memoryBytes: 4096,
            sharedInfoFrame: 0x77n,
            maxVcpuId: 0,
          };
        },
        pause: async () => {
          this.pauses++;
        },
        unpause: async () => {
          this.pauses--;
        },
        shutdown: async (_, reason) => {
          this.log.push(`shutdown ${reason}`);
          this.answer();
        },
        resume: async () => {
          if (this.reason !== SHUTDOWN.SHUTDOWN_suspend) throw new XenCallError('xc_domain_resume', 22);
          this.log.push('resume');
          this.reason = undefined;
        },
        hvmParam: async (_, index) => this.params.get(index) ?? 0n,
        nrGpfns: async () => 1000,
        pageTypes: unused,
        pageTypesFrom: unused,
        tscInfo: async () => ({ mode: 1, khz: 2_000_000, nsec: 3n, incarnation: 4 }),
        hvmContext: async () => Uint8Array.of(1, 2, 3),
        cpuPolicy: async () => this.policy,
        shadowPaging: () => this.shadow,
        freeMemory: () => this.free,
        podCounts: async () => this.pod,
        hasBooted: async () => true,
        openPv: () => Promise.reject(new XenCallError('xc_domain_get_guest_width', 1)),
        packPages: unused,
        readPages: unused,
        startDirtyLog: unused,
        takeDirty: unused,
        peekDirty: unused,
        markDirty: unused,
        stopDirtyLog: unused,
        [Symbol.asyncDispose]: async () => {},
      },
      {
        readMaybe: read,
        write,
        transaction: (work) => work({ readMaybe: read, write }),
        watch: async (path) => {
          this.log.push(`watch ${path}`);
          const queue = new EventQueue<string>();
          this.#events.add(queue);
          return {
            next: (limits: Limits = {}) => queue.next(limits, () => new XenstoreTimeoutError('nothing')),
            [Symbol.asyncDispose]: async () => {
              this.#events.delete(queue);
            },
          };
        },
        resumeDomain: async (domid) => {
          this.log.push(`xenstore resume ${domid}`);
        },
      },
    );
  }

  get watches(): number {
    return this.#events.size;
  }
}

let domain: FakeDomain;
beforeEach(() => {
  vi.useFakeTimers();
  domain = new FakeDomain();
});
afterEach(() => {
  vi.useRealTimers();
});

/** Returns the outcome of a suspend, with all timers run. */
async function suspend(options: { timeoutMs: number; signal?: AbortSignal } = { timeoutMs: 60_000 }) {
  const outcome = domain
    .hypervisor()
    .suspend(DOMID, options)
    .then(
      () => 'suspended' as const,
      (error: unknown) => error,
    );
  const start = performance.now();
  await vi.advanceTimersByTimeAsync(200_000);
  expect(domain.watches).toBe(0);
  return { outcome: await outcome, start };
}

describe('domainState', () => {
  test('joins Xen and xenstore', async () => {
    domain.pauses = 1;
    domain.reason = SHUTDOWN.SHUTDOWN_crash;
    expect(await domain.hypervisor().domainState(DOMID)).toEqual({
      domid: 5,
      uuid: '00000000-0000-0000-0000-000000000005',
      name: 'guest',
      type: 'pvh',
      paused: true,
      dying: false,
      shutdown: 'crash',
      memoryBytes: 4096,
    });
  });

  test('distinguishes the three types', async () => {
    const typeNow = async () => (await domain.hypervisor().domainState(DOMID))?.type;
    expect(await typeNow()).toBe('pvh');
    domain.type = 'hvm';
    expect(await typeNow()).toBe('hvm');
    domain.hvm = false;
    expect(await typeNow()).toBe('pv');
  });

  test('is undefined without the domain, and an unknown reason is `other`', async () => {
    domain.reason = 77;
    expect((await domain.hypervisor().domainState(DOMID))?.shutdown).toBe('other');
    domain.there = false;
    expect(await domain.hypervisor().domainState(DOMID)).toBeUndefined();
  });
});

describe('suspend', () => {
  test('asks in xenstore, with the watch set before', async () => {
    domain.answer = () => domain.suspendsAfter(30);
    expect((await suspend()).outcome).toBe('suspended');
    expect(domain.log).toEqual(['watch @releaseDomain', `${REQUEST}=suspend`]);
  });

  test('notices a suspend that xenstored does not report', async () => {
    domain.answer = () => {
      domain.acknowledge();
      domain.reason = SHUTDOWN.SHUTDOWN_suspend;
    };
    expect((await suspend()).outcome).toBe('suspended');
  });

  test.each([
    ['without PV drivers', { callback: 0n, sleep: 0n }],
    ['in an ACPI sleep', { callback: 0x100n, sleep: 3n }],
  ])('stops an HVM guest %s from outside', async (_, { callback, sleep }) => {
    domain.type = 'hvm';
    domain.params.set(HVM_PARAM.HVM_PARAM_CALLBACK_IRQ, callback);
    domain.params.set(HVM_PARAM.HVM_PARAM_ACPI_S_STATE, sleep);
    domain.answer = () => domain.stop(SHUTDOWN.SHUTDOWN_suspend);
    expect((await suspend()).outcome).toBe('suspended');
    expect(domain.log).toContain('shutdown 2');
    expect(domain.nodes.get(REQUEST)).toBe('');
  });

  test('asks an HVM guest with PV drivers', async () => {
    domain.type = 'hvm';
    domain.params.set(HVM_PARAM.HVM_PARAM_CALLBACK_IRQ, 0x100n);
    domain.answer = () => domain.suspendsAfter(0);
    expect((await suspend()).outcome).toBe('suspended');
    expect(domain.log).toContain(`${REQUEST}=suspend`);
  });

  test('withdraws the request if the guest does not react in time', async () => {
    const { outcome } = await suspend({ timeoutMs: 1000 });
    expect(outcome).toMatchObject({ code: 'SUSPEND_TIMEOUT', exitCode: 6, domid: 5 });
    expect(domain.nodes.get(REQUEST)).toBe('');
  });

  test('keeps waiting for a guest that has acknowledged', async () => {
    domain.answer = () => domain.suspendsAfter(30_000);
    expect((await suspend({ timeoutMs: 1000 })).outcome).toBe('suspended');
  });

  test('gives up on a guest that answers with what is no text, and takes nothing back', async () => {
    // As the client reads bytes that are not UTF-8.
    domain.answer = () => domain.nodes.set(REQUEST, '\ufffd\ufffd');
    expect((await suspend({ timeoutMs: 1000 })).outcome).toMatchObject({ code: 'SUSPEND_STUCK' });
    expect(domain.nodes.get(REQUEST)).toBe('\ufffd\ufffd');
  });

  test('gives up on a guest that acknowledges and keeps running', async () => {
    domain.answer = () => domain.acknowledge();
    expect((await suspend({ timeoutMs: 1000 })).outcome).toMatchObject({
      code: 'SUSPEND_STUCK',
      hint: expect.stringContaining('a driver in the guest may have refused'),
    });
  });

  test.each([
    [SHUTDOWN.SHUTDOWN_poweroff, 'poweroff'],
    [SHUTDOWN.SHUTDOWN_crash, 'crash'],
    [SHUTDOWN.SHUTDOWN_reboot, 'reboot'],
  ])('reports that the guest shut down instead (reason %i)', async (reason, shutdown) => {
    domain.answer = () => domain.stop(reason);
    expect((await suspend()).outcome).toMatchObject({ code: 'SUSPEND_SHUTDOWN', data: { shutdown } });
  });

  test('reports that the domain was destroyed', async () => {
    domain.answer = () => setTimeout(() => (domain.there = false), 100);
    expect((await suspend()).outcome).toMatchObject({ code: 'SUSPEND_GONE' });
  });

  test('withdraws the request when the signal aborts', async () => {
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 300);
    const { outcome } = await suspend({ timeoutMs: 60_000, signal: controller.signal });
    expect(outcome).toMatchObject({ code: 'INTERRUPTED' });
    expect(domain.nodes.get(REQUEST)).toBe('');
    expect(domain.log).not.toContain('resume');
  });

  test('withdraws the request if Xen cannot be asked', async () => {
    domain.answer = () => {
      domain.broken = true;
    };
    expect((await suspend()).outcome).toMatchObject({ code: 'XEN_CALL' });
    expect(domain.nodes.get(REQUEST)).toBe('');
  });

  test('lets the guest suspend and resumes it if an abort comes too late', async () => {
    const controller = new AbortController();
    domain.answer = () => domain.suspendsAfter(5000);
    setTimeout(() => controller.abort(), 300);
    const { outcome } = await suspend({ timeoutMs: 60_000, signal: controller.signal });
    expect(outcome).toMatchObject({ code: 'INTERRUPTED' });
    expect(domain.log.slice(-2)).toEqual(['resume', 'xenstore resume 5']);
    expect(domain.reason).toBeUndefined();
  });
});

test('a guest resumes by Xen alone, and xenstored is informed in a call of its own', async () => {
  domain.reason = SHUTDOWN.SHUTDOWN_suspend;
  await domain.hypervisor().resume(DOMID);
  expect(domain.log).toEqual(['resume']);
  await domain.hypervisor().announceResume(DOMID);
  expect(domain.log).toEqual(['resume', 'xenstore resume 5']);
});

test('xenstored is informed by a new connection if the first one is broken', async () => {
  const told: string[] = [];
  const broken = { resumeDomain: () => Promise.reject(new Error('the connection is closed')) };
  const hypervisor = new XenHypervisor({} as never, broken as never, async () => ({
    resumeDomain: async (domid) => void told.push(`resume ${domid}`),
    close: async () => void told.push('close'),
  }));
  await hypervisor.announceResume(DOMID);
  expect(told).toEqual(['resume 5', 'close']);
});

test('xenstored is not informed of a failed resume', async () => {
  await expect(domain.hypervisor().resume(DOMID)).rejects.toMatchObject({ code: 'XEN_CALL' });
  expect(domain.log).toEqual([]);
});

describe('openGuest', () => {
  test("knows the size of the p2m and the parameters that are set, in libxc's order", async () => {
    domain.params.set(HVM_PARAM.HVM_PARAM_IDENT_PT, 3n);
    domain.params.set(HVM_PARAM.HVM_PARAM_CONSOLE_PFN, 4n);
    domain.params.set(HVM_PARAM.HVM_PARAM_CALLBACK_IRQ, 5n);
    await using guest = await domain.hypervisor().openGuest(DOMID);
    expect(guest.p2mSize).toBe(1000);
    expect(guest.streamType).toBe('hvm');
    expect(await guest.stateRecords()).toEqual([
      { name: 'X86_TSC_INFO', mode: 1, khz: 2_000_000, nsec: 3n, incarnation: 4, reserved: 0 },
      { name: 'HVM_CONTEXT', data: Uint8Array.of(1, 2, 3) },
      {
        name: 'HVM_PARAMS',
        reserved: 0,
        params: [
          { index: 17n, value: 4n },
          { index: 12n, value: 3n },
        ],
      },
    ]);
    expect(await guest.startRecords()).toEqual([]);
  });

  test('writes no empty records', async () => {
    domain.policy = { leaves: new Uint8Array(0), msrs: new Uint8Array(0) };
    await using guest = await domain.hypervisor().openGuest(DOMID);
    expect(await guest.staticRecords()).toEqual([]);
    expect((await guest.stateRecords()).map(({ name }) => name)).toEqual(['X86_TSC_INFO', 'HVM_CONTEXT']);
  });

  test('has the CPU policy', async () => {
    await using guest = await domain.hypervisor().openGuest(DOMID);
    expect(await guest.staticRecords()).toEqual([
      {
        name: 'X86_CPUID_POLICY',
        leaves: [expect.objectContaining({ leaf: 0x01010101, edx: 0x01010101 })],
      },
      {
        name: 'X86_MSR_POLICY',
        entries: [{ index: 0x02020202, flags: 0x02020202, value: 0x0202020202020202n }],
      },
    ]);
  });

  test("uses a PV guest's own tables, and refuses a guest that does not exist", async () => {
    domain.hvm = false;
    await expect(domain.hypervisor().openGuest(DOMID)).rejects.toMatchObject({
      code: 'XEN_CALL',
      call: 'xc_domain_get_guest_width',
    });
    domain.there = false;
    await expect(domain.hypervisor().openGuest(DOMID)).rejects.toMatchObject({ code: 'DOMAIN_GONE' });
  });
});

test('a live create of a PV guest needs shadow paging, that of others does not', async () => {
  const hypervisor = domain.hypervisor();
  expect(await hypervisor.liveObstacle('pv')).toMatchObject({
    code: 'NO_LIVE',
    hint: expect.stringContaining('without --live'),
  });
  expect(await hypervisor.liveObstacle('hvm')).toBeUndefined();
  expect(await hypervisor.liveObstacle('pvh')).toBeUndefined();
  domain.shadow = true;
  expect(await hypervisor.liveObstacle('pv')).toBeUndefined();
});

test.each([
  [0, 0, false],
  [512, 512, false],
  [513, 512, true],
])(
  '%i pages to be given to a guest, %i of them reserved: refused is %s',
  async (entries, cachePages, refused) => {
    const hypervisor = domain.hypervisor();
    domain.pod = { entries, cachePages };
    for (const type of ['hvm', 'pvh'] as const) {
      expect((await hypervisor.memoryObstacle(DOMID, type))?.code).toBe(
        refused ? 'POPULATE_ON_DEMAND' : undefined,
      );
    }
    expect(await hypervisor.memoryObstacle(DOMID, 'pv')).toBeUndefined();
  },
);

describe('on a release of Xen that xlsnap does not know', () => {
  const UUID = '00000000-0000-0000-0000-000000000005';
  const xenstoreSays = (uuid: string, staticMaxKib: string | undefined): void => {
    domain.nodes.set(`/local/domain/${DOMID}/vm`, `/vm/${uuid}`);
    if (staticMaxKib !== undefined) {
      domain.nodes.set(`/local/domain/${DOMID}/memory/static-max`, staticMaxKib);
    }
  };

  test.each([
    ['the same', UUID, '4', undefined],
    ['another uuid', UUID.replace('5', '6'), '4', `has the uuid ${UUID} for Xen`],
    ['far less memory', UUID, '-40000', 'has 4096 bytes of memory for Xen, and at most -40000 KiB'],
    ['no memory', UUID, undefined, 'has 4096 bytes of memory for Xen'],
  ])('xenstore says %s', async (_, uuid, staticMax, problem) => {
    const hypervisor = domain.hypervisor();
    xenstoreSays(uuid, staticMax);
    // A known release is not compared.
    expect(await hypervisor.domainState(DOMID)).toMatchObject({ uuid: UUID });
    domain.proof = 'none';
    const state = domain.hypervisor().domainState(DOMID);
    if (problem === undefined) expect(await state).toMatchObject({ uuid: UUID });
    else {
      await expect(state).rejects.toMatchObject({
        code: 'XEN_SELF_TEST',
        message: expect.stringContaining(problem),
      });
    }
  });

  test('a domain that xenstore does not know cannot be compared', async () => {
    domain.proof = 'none';
    await expect(domain.hypervisor().domainState(DOMID)).rejects.toMatchObject({ code: 'XEN_SELF_TEST' });
    // What undoing needs is not refused: the guest must resume.
    expect(await domain.hypervisor().vitals(DOMID)).toMatchObject({ uuid: UUID });
  });

  test('PV guests are refused, others are not', async () => {
    domain.proof = 'none';
    const hypervisor = domain.hypervisor();
    expect((await hypervisor.memoryObstacle(DOMID, 'pv'))?.code).toBe('XEN_UNTESTED_PV');
    expect(await hypervisor.memoryObstacle(DOMID, 'pvh')).toBeUndefined();
  });
});

/** The order of a stream's items: which kind comes next, and which records may be where. */
import type { StreamFormat, StreamItem } from './items.ts';
import { LIBXC_VERSION, type LibxcRecord, type LibxcRecordName, type StreamGuestType } from './libxc.ts';
import type { LibxlRecord } from './libxl.ts';

/**
 * Knows which kind of item comes next. libxc's stream has no length: it begins after libxl's LIBXC_CONTEXT
 * and ends with its own END. In a checkpointed stream (Remus), CHECKPOINT hands over to libxl, and libxl's
 * CHECKPOINT_END back to libxc, without new headers.
 */
export class Nesting {
  /** The kind of the next item, or `done` after the outermost END. */
  next: StreamItem['kind'] | 'done';
  readonly #bare: boolean;
  #checkpointed = false;

  constructor(format: StreamFormat) {
    this.#bare = format === 'libxc';
    this.next = format === 'libxc' ? 'libxc-headers' : `${format}-header`;
  }

  /**
   * Moves past an item.
   * @param item an item of the kind `next`
   */
  advance(item: StreamItem): void {
    switch (item.kind) {
      case 'xl-header':
        this.next = 'libxl-header';
        break;
      case 'libxl-header':
        this.next = 'libxl-record';
        break;
      case 'libxc-headers':
        this.next = 'libxc-record';
        break;
      case 'libxl-record':
        if (item.record.name === 'END') this.next = 'done';
        else if (item.record.name === 'LIBXC_CONTEXT') this.next = 'libxc-headers';
        else if (item.record.name === 'CHECKPOINT_END' && this.#checkpointed) {
          this.#checkpointed = false;
          this.next = 'libxc-record';
        }
        break;
      case 'libxc-record':
        if (item.record.name === 'END') this.next = this.#bare ? 'done' : 'libxl-record';
        else if (item.record.name === 'CHECKPOINT' && !this.#bare) {
          this.#checkpointed = true;
          this.next = 'libxl-record';
        }
        break;
    }
  }
}

/** A rule that an item breaks. */
export interface OrderProblem {
  /** `error`: Xen's restore refuses the item; `warning`: it accepts the item, against the specification. */
  readonly severity: 'error' | 'warning';
  readonly code: 'RECORD_ORDER' | 'RECORD_REPEATED' | 'RECORD_MISPLACED' | 'RECORD_MISSING';
  readonly message: string;
}

interface Rule {
  /** Allowed only in streams of this guest type. */
  readonly guest?: StreamGuestType;
  /** Belongs before STATIC_DATA_END (version 3). */
  readonly isStatic?: true;
  /** Not allowed in older streams. */
  readonly sinceVersion?: number;
  /** A record that must precede it. */
  readonly after?: LibxcRecordName;
  /** At most once, counted by record and vCPU; `refused` if Xen does not accept a second one. */
  readonly once?: 'refused' | 'tolerated';
  /** Never allowed in a file; the text says why. */
  readonly never?: string;
}

const vcpu: Rule = { guest: 'pv', after: 'PAGE_DATA', once: 'tolerated' };

/** The rules of libxc-migration-stream.pandoc, "Layout", and what xg_sr_restore*.c refuses. */
const rules: Readonly<Record<LibxcRecordName, Rule>> = {
  END: {},
  PAGE_DATA: {},
  X86_PV_INFO: { guest: 'pv', isStatic: true, once: 'refused' },
  X86_PV_P2M_FRAMES: { guest: 'pv', after: 'X86_PV_INFO' },
  X86_PV_VCPU_BASIC: vcpu,
  X86_PV_VCPU_EXTENDED: vcpu,
  X86_PV_VCPU_XSAVE: vcpu,
  X86_PV_VCPU_MSRS: vcpu,
  SHARED_INFO: { guest: 'pv', after: 'X86_PV_INFO', once: 'tolerated' },
  X86_TSC_INFO: { once: 'tolerated' },
  // The specification wants HVM_PARAMS first; libxc itself writes HVM_CONTEXT first and applies it at END.
  HVM_CONTEXT: { guest: 'hvm', once: 'tolerated' },
  HVM_PARAMS: { guest: 'hvm', once: 'tolerated' },
  TOOLSTACK: { never: 'it is deprecated' },
  VERIFY: {},
  CHECKPOINT: {},
  CHECKPOINT_DIRTY_PFN_LIST: { never: 'it belongs to the back channel of a COLO stream' },
  STATIC_DATA_END: { isStatic: true, sinceVersion: 3, once: 'refused' },
  X86_CPUID_POLICY: { isStatic: true, sinceVersion: 3, once: 'tolerated' },
  X86_MSR_POLICY: { isStatic: true, sinceVersion: 3, once: 'tolerated' },
};

/** Records without which a guest cannot be restored. */
const required: Readonly<Record<StreamGuestType, readonly LibxcRecordName[]>> = {
  hvm: ['PAGE_DATA', 'HVM_PARAMS', 'HVM_CONTEXT'],
  pv: ['X86_PV_INFO', 'X86_PV_P2M_FRAMES', 'PAGE_DATA', 'SHARED_INFO', 'X86_PV_VCPU_BASIC'],
};

/** Checks the order of items in all three formats. No other code has such rules. */
export class OrderRules {
  readonly #nesting: Nesting;
  #guest: StreamGuestType | undefined;
  #version = LIBXC_VERSION;
  #contexts = 0;
  readonly #seen = new Set<string>();

  constructor(format: StreamFormat) {
    this.#nesting = new Nesting(format);
  }

  /** Whether the outermost END has been seen. */
  get done(): boolean {
    return this.#nesting.next === 'done';
  }

  /** Takes the next item, and returns which rules its place breaks. */
  check(item: StreamItem): OrderProblem[] {
    const { next } = this.#nesting;
    if (item.kind !== next) {
      const expected = next === 'done' ? 'the end of the stream' : `a ${next}`;
      return [error('RECORD_ORDER', `expected ${expected}, found a ${item.kind}`)];
    }
    this.#nesting.advance(item);
    switch (item.kind) {
      case 'libxc-headers':
        this.#guest = item.domain.guestType;
        this.#version = item.image.version;
        this.#seen.clear();
        return [];
      case 'libxl-record':
        return this.#libxl(item.record);
      case 'libxc-record':
        return this.#libxc(item.record);
      default:
        return [];
    }
  }

  #libxl(record: LibxlRecord): OrderProblem[] {
    switch (record.name) {
      case 'LIBXC_CONTEXT':
        this.#contexts++;
        return this.#contexts === 1 ? [] : [error('RECORD_REPEATED', 'a second LIBXC_CONTEXT')];
      case 'END':
        return this.#contexts > 0 ? [] : [error('RECORD_MISSING', 'no LIBXC_CONTEXT before END')];
      case 'EMULATOR_XENSTORE_DATA':
      case 'EMULATOR_CONTEXT':
        if (this.#contexts === 0) return [error('RECORD_ORDER', `${record.name} before LIBXC_CONTEXT`)];
        return this.#guest === 'pv' ? [error('RECORD_MISPLACED', `${record.name} of a PV guest`)] : [];
      case 'CHECKPOINT_END':
        return this.#nesting.next === 'libxc-record'
          ? []
          : [error('RECORD_MISPLACED', 'CHECKPOINT_END without CHECKPOINT')];
      case 'CHECKPOINT_STATE':
        return [error('RECORD_MISPLACED', 'CHECKPOINT_STATE belongs to a COLO stream')];
      case 'OPTIONAL':
        // libxl knows no optional records, and refuses every record that it does not know
        // (libxl_stream_read.c).
        return [error('RECORD_MISPLACED', 'libxl accepts no optional records')];
    }
  }

  #libxc(record: LibxcRecord): OrderProblem[] {
    if (record.name === 'OPTIONAL') return [];
    const { name } = record;
    const rule = rules[name];
    const problems: OrderProblem[] = [];
    if (rule.never !== undefined) problems.push(error('RECORD_MISPLACED', `${name}: ${rule.never}`));
    if (rule.guest !== undefined && rule.guest !== this.#guest) {
      problems.push(error('RECORD_MISPLACED', `${name} in the stream of a guest of type ${this.#guest}`));
    }
    if (rule.sinceVersion !== undefined && this.#version < rule.sinceVersion) {
      problems.push(warning('RECORD_MISPLACED', `${name} in a stream of version ${this.#version}`));
    }
    if (this.#version >= 3) {
      const over = this.#seen.has('STATIC_DATA_END');
      if (rule.isStatic && over && name !== 'STATIC_DATA_END') {
        problems.push(warning('RECORD_ORDER', `${name} after STATIC_DATA_END`));
      } else if (!rule.isStatic && !over) {
        const refused = name === 'PAGE_DATA' || name === 'X86_PV_P2M_FRAMES' || name === 'END';
        problems.push((refused ? error : warning)('RECORD_ORDER', `${name} before STATIC_DATA_END`));
      }
    }
    const after = name === 'PAGE_DATA' && this.#guest === 'pv' ? 'X86_PV_P2M_FRAMES' : rule.after;
    if (after !== undefined && !this.#seen.has(after)) {
      problems.push(error('RECORD_ORDER', `${name} before ${after}`));
    }
    const key = 'vcpuId' in record ? `${name} of vCPU ${record.vcpuId}` : name;
    if (rule.once !== undefined && this.#seen.has(key)) {
      problems.push((rule.once === 'refused' ? error : warning)('RECORD_REPEATED', `a second ${key}`));
    }
    if (name === 'END') {
      for (const missing of this.#guest === undefined ? [] : required[this.#guest]) {
        if (!this.#seen.has(missing)) problems.push(error('RECORD_MISSING', `no ${missing} before END`));
      }
      if (!this.#seen.has('X86_TSC_INFO')) {
        problems.push(warning('RECORD_MISSING', 'no X86_TSC_INFO before END'));
      }
    }
    // The guest's state is sent again for each checkpoint.
    if (name === 'CHECKPOINT') this.#forgetState();
    this.#seen.add(name).add(key);
    return problems;
  }

  #forgetState(): void {
    for (const key of this.#seen) {
      if (/^(X86_TSC_INFO|SHARED_INFO|HVM_|X86_PV_VCPU_)/.test(key)) this.#seen.delete(key);
    }
  }
}

function error(code: OrderProblem['code'], message: string): OrderProblem {
  return { severity: 'error', code, message };
}

function warning(code: OrderProblem['code'], message: string): OrderProblem {
  return { severity: 'warning', code, message };
}

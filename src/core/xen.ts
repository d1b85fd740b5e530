/** Types of guests and releases of Xen. */

export type GuestType = 'pv' | 'pvh' | 'hvm';

/** A release of Xen, as the hypervisor reports it. */
export interface XenVersion {
  readonly major: number;
  readonly minor: number;
  /** `.4-pre` and the like. */
  readonly extra: string;
}

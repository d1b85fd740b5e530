/** What Xen's own words are for guests and releases. */

export type GuestType = 'pv' | 'pvh' | 'hvm';

/** A release of Xen, as the hypervisor reports it. */
export interface XenVersion {
  readonly major: number;
  readonly minor: number;
  /** `.4-pre` and the like. */
  readonly extra: string;
}

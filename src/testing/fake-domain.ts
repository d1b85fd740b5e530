/** One domain of the fake host, with what Xen, xl and its QEMU know about it. */
import type { Domid } from '../core/brand.ts';
import { DomainError } from '../core/errors.ts';
import type { GuestType } from '../core/xen.ts';
import { domainIdentity, type LibxlConfig } from '../memfile/libxl-config.ts';
import type { DomainState } from '../snapshot/ports.ts';
import { readImage, writeImage } from './fake-image.ts';

export class FakeDomain {
  /** `undefined` while the domain does not exist. */
  domid: Domid | undefined;
  config: LibxlConfig;
  type: GuestType;
  pauses = 0;
  suspended = false;
  /** State of a request to suspend that no one waits for. */
  request: 'none' | 'made' | 'acknowledged' = 'none';
  dying = false;
  shutdown: DomainState['shutdown'];
  /** The images that its disks write to: vdev to path. */
  readonly inUse = new Map<string, string>();
  /** Vdevs of disks whose overlay QEMU is merging. */
  readonly jobs = new Set<string>();
  /** The images that its QEMU was started on: vdev to path. */
  readonly started = new Map<string, string>();
  /** The merged overlays that its QEMU has not closed: vdev to path. It snapshots and merges no disk that has one. */
  readonly unclosed = new Map<string, string>();
  machineStopped = false;
  /** Whether QEMU reports its own writes to Xen's dirty log. */
  machineLogs = false;
  /** Whether its QEMU has aborted. The devices do nothing then. */
  qemuDead = false;

  constructor(domid: Domid, config: LibxlConfig, type: GuestType) {
    this.domid = domid;
    this.config = config;
    this.type = type;
  }

  get name(): string {
    return domainIdentity(this.config).name;
  }

  get uuid(): string {
    return domainIdentity(this.config).uuid;
  }

  /** Whether the guest executes instructions. */
  get runs(): boolean {
    return (
      this.domid !== undefined &&
      this.pauses === 0 &&
      !this.suspended &&
      !this.machineStopped &&
      this.shutdown === undefined &&
      !(this.qemuDead && this.type === 'hvm')
    );
  }

  /** The reason of its shutdown, as Xen reports it now. */
  get reason(): DomainState['shutdown'] {
    return this.suspended ? 'suspend' : this.shutdown;
  }

  /** Writes to all disks, as the guest. */
  write(content: string): void {
    for (const path of this.inUse.values()) writeImage(path, { ...readImage(path), content });
  }

  /** Lets its QEMU open an image. */
  open(vdev: string, path: string): void {
    this.inUse.set(vdev, path);
    this.started.set(vdev, path);
  }

  /** Ends the domain, and forgets everything about it. */
  end(): void {
    this.domid = undefined;
    this.inUse.clear();
    this.jobs.clear();
    this.started.clear();
    this.unclosed.clear();
    Object.assign(this, {
      pauses: 0,
      suspended: false,
      request: 'none',
      dying: false,
      shutdown: undefined,
      machineStopped: false,
      machineLogs: false,
      qemuDead: false,
    });
  }

  /**
   * Checks that QEMU answers.
   * @throws {DomainError} QEMU_DIED if it has aborted.
   */
  requireQemu(): void {
    if (this.qemuDead) throw new DomainError('QEMU_DIED', `the QEMU of ${this.name} has exited`);
  }
}

/** One domain of the fake host: what Xen, xl and its QEMU know of it. */
import type { Domid } from '../core/brand.ts';
import { DomainError } from '../core/errors.ts';
import type { GuestType } from '../core/xen.ts';
import { domainIdentity, type LibxlConfig } from '../memfile/libxl-config.ts';
import type { DomainState } from '../snapshot/ports.ts';
import { readImage, writeImage } from './fake-image.ts';

export class FakeDomain {
  /** `undefined` while it does not exist. */
  domid: Domid | undefined;
  config: LibxlConfig;
  type: GuestType;
  pauses = 0;
  suspended = false;
  /** What has become of a request to suspend that no one waits for. */
  request: 'none' | 'made' | 'acknowledged' = 'none';
  dying = false;
  shutdown: DomainState['shutdown'];
  /** Where its disks write: vdev to image. */
  readonly inUse = new Map<string, string>();
  machineStopped = false;
  /** Whether QEMU reports what it writes to Xen's dirty log. */
  machineLogs = false;
  /** Whether its QEMU has aborted: what it did is not done any more. */
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

  /** As Xen has it now. */
  get reason(): DomainState['shutdown'] {
    return this.suspended ? 'suspend' : this.shutdown;
  }

  /** The guest writes to all its disks. */
  write(content: string): void {
    for (const path of this.inUse.values()) writeImage(path, { ...readImage(path), content });
  }

  /** It is gone, with all that it was. */
  end(): void {
    this.domid = undefined;
    this.inUse.clear();
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

  /** @throws DomainError when QEMU cannot be asked any more */
  requireQemu(): void {
    if (this.qemuDead) throw new DomainError('QEMU_DIED', `the QEMU of ${this.name} has exited`);
  }
}

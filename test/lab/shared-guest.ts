/** A guest in the lab that several test cases use. */
import { expect } from 'vitest';
import type { GuestSpec } from '../../lab/guests.ts';
import type { Dom0 } from './host.ts';

/** A small guest with a disk that supports internal snapshots, and one that does not. */
export function smallGuest(name: string, more: Partial<GuestSpec> = {}): GuestSpec {
  return {
    type: 'pvh',
    name,
    memoryMiB: 84,
    tickMs: 250,
    disks: [
      { vdev: 'xvda', format: 'qcow2', sizeMiB: 16 },
      { vdev: 'xvdb', format: 'raw', sizeMiB: 16 },
    ],
    ...more,
  };
}

/** A guest that several cases use one after the other, with a folder for their files. */
export class SharedGuest {
  readonly name: string;
  /** Folder in dom0. */
  readonly folder: string;
  readonly #spec: GuestSpec;
  readonly #dom0: () => Dom0;
  domid = -1;

  constructor(spec: GuestSpec, dom0: () => Dom0) {
    this.name = spec.name;
    this.folder = `/lab/${spec.name}`;
    this.#spec = spec;
    this.#dom0 = dom0;
  }

  /** Runs one case, with the guest running; repeats it if emulation killed the guest in the meantime. */
  async steadily(body: () => Promise<void>): Promise<void> {
    await this.#dom0().steadily(this.name, async () => {
      console.log(`  ${expect.getState().currentTestName}`);
      await this.#ensure();
      await body();
    });
  }

  /** Makes the next case get another guest. */
  discard(): void {
    this.domid = -1;
  }

  /** Returns the guest of an earlier case, or a new one. */
  async #ensure(): Promise<void> {
    const { lab } = this.#dom0();
    const there = (await lab.domains()).get(this.name);
    if (there?.domid === this.domid && !/[pscd]/.test(there.flags)) return;
    await lab.removeGuest(this.name);
    this.domid = (await lab.startGuest(this.#spec)).domid;
    await lab.run(
      `for d in ${this.folder}/*; do umount $d 2>/dev/null; done; rm -rf ${this.folder} /var/lib/xen/snapshots; mkdir -p ${this.folder}`,
    );
  }

  /** Checks that it still ticks as the same domain, and that its disks have what it expects. */
  async expectGoesOn(): Promise<void> {
    const { lab } = this.#dom0();
    await lab.waitForTicks(this.name, 3);
    expect((await lab.guestReport(this.name)).complaints).toEqual([]);
    expect((await lab.domains()).get(this.name)?.domid).toBe(this.domid);
  }

  /** Checks that there are no files but the cfgfile, and no snapshots in its qcow2 image. */
  async expectNothingLeft(folder = this.folder): Promise<void> {
    const { stdout } = await this.#dom0().lab.run(
      `ls -A ${folder} | grep -vx x.cfg; qemu-img snapshot -U -l /lab/guests/${this.name}/xvda.qcow2; ls /var/lib/xen/snapshots 2>/dev/null`,
      { check: false },
    );
    expect(stdout).toBe('');
  }

  /** Where `cfgOf` puts the overlay. */
  get overlay(): string {
    return `${this.folder}/ov.qcow2`;
  }

  /** Returns a cfgfile for a snapshot to `NAME.save`: one disk internal, the other external. */
  cfgOf(name: string): string {
    return `name="${name}"\nmemory_path="${this.folder}/${name}.save"\ndisks=[',,xvda', '${this.overlay},qcow2,xvdb']\n`;
  }

  /** Writes the cfgfile of the next create. @returns its path */
  async configure(text: string): Promise<string> {
    const path = `${this.folder}/x.cfg`;
    await this.#dom0().lab.run(`cat >${path}`, { input: text });
    return path;
  }
}

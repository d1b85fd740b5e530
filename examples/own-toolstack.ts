/** Snapshots with your own toolstack, which says how its domains are described, destroyed and restored. */
import { type Domid, type Host, type LibxlConfig, LibxlToolstack, openHost, toDomid } from 'xlsnap';

/** What the toolstack can already do. */
export interface Domains {
  /** Returns the domain's configuration, in libxl's JSON. */
  describe(domid: number): Promise<LibxlConfig>;
  destroy(domid: number): Promise<void>;
  /** Restores a domain, leaves it paused, and returns its domid. A `config` replaces the one in the file. */
  restore(memoryPath: string, config: LibxlConfig | undefined): Promise<number>;
}

class OwnToolstack extends LibxlToolstack {
  readonly #domains: Domains;

  constructor(domains: Domains, ...parts: ConstructorParameters<typeof LibxlToolstack>) {
    super(...parts);
    this.#domains = domains;
  }

  domainConfig = (domid: Domid): Promise<LibxlConfig> => this.#domains.describe(domid);
  destroy = (domid: Domid): Promise<void> => this.#domains.destroy(domid);
  restore = async (memoryPath: string, config: LibxlConfig | undefined): Promise<Domid> =>
    toDomid(await this.#domains.restore(memoryPath, config));
}

export function openOwnHost(domains: Domains): Promise<Host> {
  return openHost({ toolstack: (...parts) => new OwnToolstack(domains, ...parts) });
}

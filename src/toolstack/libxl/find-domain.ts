/** Finds domains by what libxl writes into xenstore. */
import { type Domid, toDomid } from '../../core/brand.ts';
import { isUuid } from '../../core/guards.ts';
import type { XenstoreClient } from '../../xenstore/client.ts';

/** Finds a domain by name, number or uuid, in xenstore. A number is taken for a domid, as xl does. */
export async function findDomain(xenstore: XenstoreClient, nameOrDomid: string): Promise<Domid | undefined> {
  if (/^\d+$/.test(nameOrDomid)) {
    try {
      return toDomid(Number(nameOrDomid));
    } catch {
      return undefined;
    }
  }
  const found = isUuid(nameOrDomid) ? await findByUuid(xenstore, nameOrDomid.toLowerCase()) : undefined;
  return found ?? (await findByName(xenstore, nameOrDomid));
}

/** Finds the domain with exactly this name, which is not taken for a number. */
export function findByName(xenstore: XenstoreClient, name: string): Promise<Domid | undefined> {
  return findBy(xenstore, 'name', name);
}

/** The names of all domains but dom0. */
export async function domainNames(xenstore: XenstoreClient): Promise<readonly string[]> {
  const names: string[] = [];
  for (const domid of await xenstore.list('/local/domain')) {
    const name = await xenstore.readMaybe(`/local/domain/${domid}/name`);
    if (domid !== '0' && name !== undefined) names.push(name);
  }
  return names;
}

/** Finds the domain with this uuid. */
export function findByUuid(xenstore: XenstoreClient, uuid: string): Promise<Domid | undefined> {
  return findBy(xenstore, 'vm', `/vm/${uuid}`);
}

async function findBy(
  xenstore: XenstoreClient,
  key: 'name' | 'vm',
  value: string,
): Promise<Domid | undefined> {
  for (const domid of await xenstore.list('/local/domain')) {
    if (!/^\d+$/.test(domid)) continue;
    if ((await xenstore.readMaybe(`/local/domain/${domid}/${key}`)) === value) return toDomid(Number(domid));
  }
  return undefined;
}

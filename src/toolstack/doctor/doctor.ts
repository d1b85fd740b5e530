/**
 * Makes the report of `xlsnap doctor`: what works on the host, and how each domain could be snapshotted.
 * Changes nothing.
 */
import { describeError, XlsnapError } from '../../core/errors.ts';
import { omitUndefined } from '../../core/omit-undefined.ts';
import { type DomainExamination, examineDomain } from '../../snapshot/create/examine.ts';
import { type ListedSnapshot, listSnapshots } from '../../snapshot/list/list.ts';
import { givenDomain } from '../../snapshot/list/match.ts';
import type { Host } from '../../snapshot/ports.ts';
import { XenstoreClient } from '../../xenstore/client.ts';
import { readSuspendFeature } from '../create-checks/suspend-feature.ts';
import { imageHost } from '../image-host.ts';
import { asFailure, checkHost, type HostCheck, type HostCheckOptions } from './host-checks.ts';

/** A domain, and what its QEMU and its kernel report. */
export type DomainReport = DomainExamination;

export interface DoctorReport {
  /** Whether no check has failed and all domains can be snapshotted. */
  readonly ok: boolean;
  readonly checks: readonly HostCheck[];
  readonly domains: readonly DomainExamination[];
  /** If one domain was asked for: its newest snapshots, newest last. */
  readonly snapshots?: readonly ListedSnapshot[];
}

/** Snapshots of a domain in the report. */
const SHOWN_SNAPSHOTS = 3;

/**
 * Checks the host, and one domain or all of them.
 * @param nameOrDomid the only domain to check
 */
export async function runDoctor(
  openHost: () => Promise<Host>,
  nameOrDomid: string | undefined,
  options: HostCheckOptions = {},
): Promise<DoctorReport> {
  const checks = [...(await checkHost(options))];
  let domains: readonly DomainExamination[] = [];
  let snapshots: readonly ListedSnapshot[] | undefined;
  try {
    await using host = await openHost();
    domains = await examineDomains(host, nameOrDomid);
    if (nameOrDomid !== undefined) snapshots = await newestSnapshots(host, nameOrDomid);
  } catch (error) {
    checks.push({ name: 'domains', ...asFailure(error) });
  }
  const ok = checks.every(({ status }) => status !== 'failed') && domains.every(({ possible }) => possible);
  return omitUndefined({ ok, checks, domains, snapshots });
}

/** Examines domains, in the order of xenstore. */
async function examineDomains(
  host: Host,
  nameOrDomid: string | undefined,
): Promise<readonly DomainExamination[]> {
  const names = nameOrDomid === undefined ? await listDomains() : [nameOrDomid];
  const reports: DomainExamination[] = [];
  for (const name of names) reports.push(await reportDomain(host, name));
  return reports;
}

/** Lists the newest snapshots of a domain. What cannot be listed is not a failure of the domain. */
async function newestSnapshots(host: Host, nameOrDomid: string): Promise<readonly ListedSnapshot[]> {
  try {
    const { keys } = await givenDomain(host, nameOrDomid);
    const [domain = nameOrDomid, ...others] = keys;
    return (await listSnapshots(imageHost(), { domain, keys: others, newest: SHOWN_SNAPSHOTS })).snapshots;
  } catch (error) {
    if (error instanceof XlsnapError) return [];
    throw error;
  }
}

/** Returns the domids of all domains except dom0. */
async function listDomains(): Promise<readonly string[]> {
  await using xenstore = await XenstoreClient.connect();
  return (await xenstore.list('/local/domain')).filter((domid) => /^[1-9]\d*$/.test(domid));
}

async function reportDomain(host: Host, nameOrDomid: string): Promise<DomainExamination> {
  try {
    const examination = await examineDomain(host, nameOrDomid);
    const { domid } = examination;
    if (domid === undefined) return examination;
    const warnings = await suspendWarnings(domid).catch(() => []);
    return { ...examination, warnings: [...examination.warnings, ...warnings] };
  } catch (error) {
    return unknownDomain(nameOrDomid, error);
  }
}

function unknownDomain(domain: string, error: unknown): DomainExamination {
  const { code, hint } = error instanceof XlsnapError ? error : { code: 'UNKNOWN', hint: undefined };
  const message = describeError(error);
  return {
    domain,
    possible: false,
    byDefault: false,
    live: false,
    disks: [],
    obstacles: [{ code, message, hint }],
    liveObstacles: [],
    warnings: [],
  };
}

/**
 * Warns of a guest that announces nothing, and may be able to suspend. One that announces only other requests
 * is an obstacle.
 */
async function suspendWarnings(domid: number): Promise<readonly string[]> {
  await using xenstore = await XenstoreClient.connect();
  return (await readSuspendFeature(xenstore, domid)) === 'silent'
    ? ['the guest has not announced that it can suspend: it is still booting, or has no PV drivers']
    : [];
}

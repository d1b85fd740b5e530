/** Checks whether the restored domain's programs would end together with the service that runs the revert. */
import { readFile } from 'node:fs/promises';
import { runProgram } from '../process/run.ts';

/** For `systemctl show`, which answers in milliseconds; the revert does not depend on it. */
const SYSTEMCTL_MS = 10_000;

/** Where to look; for tests. */
export interface ServicePlaces {
  readonly cgroup?: string;
  /** Returns what `systemctl show` prints about a service. */
  readonly show?: (service: string) => Promise<string>;
}

/**
 * Warns when this process runs in a systemd service that kills all its processes when it ends (systemd.kill(5):
 * `KillMode=control-group`, the default). `xl restore` leaves `xl` and the domain's QEMU in the background, and they stay
 * in the control group of whoever started them: the guest would lose its disks.
 */
export async function serviceWarnings({
  cgroup = '/proc/self/cgroup',
  show = showService,
}: ServicePlaces = {}): Promise<string[]> {
  const service = serviceOf(await readFile(cgroup, 'latin1').catch(() => ''));
  if (service === undefined) return [];
  const properties = await show(service).catch(() => '');
  if (/^KillMode=(?:process|none)$/m.test(properties) || /^RemainAfterExit=yes$/m.test(properties)) return [];
  return [
    `this runs in the systemd service ${service}, which kills the restored domain's xl and QEMU when it ends: put KillMode=process into its unit`,
  ];
}

/** The service whose control group a process is in, by its /proc/PID/cgroup; a session (`.scope`) is none. */
function serviceOf(text: string): string | undefined {
  // cgroups(7): systemd uses the hierarchy of its name where there is one, else the unified one.
  const [, path = ''] = /^[0-9]+:name=systemd:(\/.*)$/m.exec(text) ?? /^0::(\/.*)$/m.exec(text) ?? [];
  const unit = path.split('/').findLast((part) => /\.(?:service|scope)$/.test(part));
  return unit?.endsWith('.service') === true ? unit : undefined;
}

async function showService(service: string): Promise<string> {
  const args = ['show', '--property=KillMode,RemainAfterExit', service];
  return (await runProgram('systemctl', args, { timeoutMs: SYSTEMCTL_MS })).stdout;
}

/** What must hold before calls of an unknown release are trusted. */
import { EnvironmentError } from '../core/errors.ts';
import type { DomainInfo } from './xen-control.ts';

/** Bytes; far more than any dom0 has. */
const MAX_MEMORY = 2 ** 46;
/** xen/arch/x86/include/asm/config.h: MAX_VIRT_CPUS. */
const MAX_VCPUS = 8192;

/**
 * Checks dom0's own entry as xc_domain_getinfolist gave it: fields that have moved would show there. Its uuid says nothing:
 * zeros, unless /etc/xen/dom0-uuid has another (tools/helpers/xen-init-dom0.c).
 * @param info undefined if there was no entry for domid 0
 * @throws {EnvironmentError} If it cannot be dom0's (XEN_SELF_TEST).
 */
export function checkDom0(info: DomainInfo | undefined): void {
  const wrong = dom0Problem(info);
  if (wrong !== undefined) throw selfTestFailed(`the entry of dom0 ${wrong}`);
}

function dom0Problem(info: DomainInfo | undefined): string | undefined {
  if (info === undefined) return 'is missing';
  const { dying, shutdownReason, memoryBytes, maxVcpuId } = info;
  if (dying || shutdownReason !== undefined) return 'says that it has shut down';
  if (!(memoryBytes > 0 && memoryBytes <= MAX_MEMORY)) return `has ${memoryBytes} bytes of memory`;
  if (maxVcpuId >= MAX_VCPUS) return `has ${maxVcpuId + 1} vCPUs`;
  return undefined;
}

/** Returns the error about a self-test. */
export function selfTestFailed(what: string): EnvironmentError {
  return new EnvironmentError('XEN_SELF_TEST', `this Xen is not as xlsnap expects: ${what}`, {
    hint: 'nothing has been changed; this release of Xen needs a newer xlsnap',
  });
}

/** Compares what an unknown release of Xen says about a domain with what xenstore says. */
import type { Domid } from '../../core/brand.ts';
import { type DomainInfo, selfTestFailed } from '../../xenctrl/index.ts';

const KIB = 1024;
/**
 * Bytes that a domain may have above memory/static-max and memory/videoram: libxl's constant of 1 MiB, option ROMs, and the
 * special pages of HVM guests (tools/libs/light/libxl_internal.h: LIBXL_MAXMEM_CONSTANT).
 */
const SLACK = 32 * KIB * KIB;

/**
 * Checks a domain's uuid and memory against xenstore (tools/libs/light/libxl_dom.c, libxl_create.c: `vm`, `memory/static-max` and
 * `memory/videoram`, in KiB). A domain without these nodes cannot be compared, and fails.
 * @param info as Xen gave it
 * @throws {EnvironmentError} If they differ (XEN_SELF_TEST).
 */
export async function checkAgainstXenstore(
  xenstore: { readMaybe(path: string): Promise<string | undefined> },
  domid: Domid,
  info: Pick<DomainInfo, 'uuid' | 'memoryBytes'>,
): Promise<void> {
  const read = (node: string): Promise<string | undefined> =>
    xenstore.readMaybe(`/local/domain/${domid}/${node}`);
  const [, uuid] = /^\/vm\/([0-9a-f-]{36})/.exec((await read('vm')) ?? '') ?? [];
  if (uuid === undefined) {
    throw selfTestFailed(`xenstore has no uuid of domain ${domid} that Xen's could be compared with`);
  }
  if (uuid !== info.uuid) {
    throw selfTestFailed(`domain ${domid} has the uuid ${info.uuid} for Xen, and ${uuid} in xenstore`);
  }
  const max = Number(await read('memory/static-max'));
  const video = Number((await read('memory/videoram')) ?? 0);
  const { memoryBytes } = info;
  const most = (max + Math.max(0, video)) * KIB + SLACK;
  if (!(memoryBytes > 0 && memoryBytes <= most)) {
    throw selfTestFailed(
      `domain ${domid} has ${memoryBytes} bytes of memory for Xen, and at most ${max} KiB by xenstore`,
    );
  }
}

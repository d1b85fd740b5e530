/** Converts names of virtual disks to device numbers (Xen: docs/man/xen-vbd-interface.7). */

/** The names of disks. They have at most five letters: `xvd` counts to 2^20 - 1. */
const PATTERN = /^(xvd|hd|sd)([a-z]{1,5})([1-9][0-9]{0,2})?$/;
const PLAIN = /^d([0-9]+)p([0-9]+)$/;

/**
 * Returns the device number of `vdev`: `xvda` 51712, `hda` 768, `sda` 2048, `xvdq` 268439552 (the extended
 * form); also of `d0p1` and numbers. Undefined if it is not a virtual disk's name.
 */
export function vdevToDevid(vdev: string): number | undefined {
  const plain = PLAIN.exec(vdev);
  if (plain !== null) return xenDevid(Number(plain[1]), Number(plain[2]));
  if (/^([0-9]|[1-9][0-9]{1,9}|0x[0-9a-f]{1,8})$/i.test(vdev)) {
    const devid = Number(vdev);
    return devid <= 0x7fff_ffff ? devid : undefined;
  }
  const [, kind, letters, digits = '0'] = PATTERN.exec(vdev) ?? [];
  if (letters === undefined) return undefined;
  let disk = 0;
  for (const letter of letters) disk = disk * 26 + (letter.charCodeAt(0) - 96);
  disk -= 1;
  const partition = Number(digits);
  switch (kind) {
    case 'xvd':
      return xenDevid(disk, partition);
    case 'hd':
      // There are two disks on each of the majors 3 and 22.
      if (disk > 3 || partition > 63) return undefined;
      return ((disk < 2 ? 3 : 22) << 8) | ((disk & 1) << 6) | partition;
    default:
      if (disk > 15 || partition > 15) return undefined;
      return (8 << 8) | (disk << 4) | partition;
  }
}

function xenDevid(disk: number, partition: number): number | undefined {
  if (disk >= 1 << 20 || partition > 255) return undefined;
  if (disk <= 15 && partition <= 15) return (202 << 8) | (disk << 4) | partition;
  return (1 << 28) | (disk << 8) | partition;
}

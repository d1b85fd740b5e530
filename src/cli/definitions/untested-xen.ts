/** The option of all commands that open a host. */
export const UNTESTED_XEN = [
  '--untested-xen',
  'work on a Xen that is newer than this xlsnap, after a self-test; HVM and PVH guests only',
] as const;

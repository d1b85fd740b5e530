import type { BlockNode } from '../../src/qmp/commands.ts';

/** A block node as QEMU reports it: qcow2, writable, with nothing special about it. */
export function blockNode(nodeName: string, file: string, more: Partial<BlockNode> = {}): BlockNode {
  return {
    nodeName,
    driver: 'qcow2',
    file,
    readOnly: false,
    encrypted: false,
    externalData: false,
    backingFiles: [],
    tags: [],
    virtualSize: 1,
    ...more,
  };
}

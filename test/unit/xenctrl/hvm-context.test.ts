import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import { expect, test } from 'vitest';
import { BufferSource } from '../../../src/core/byte-source.ts';
import { readStream } from '../../../src/savefmt/index.ts';
import { pagingIsOn } from '../../../src/xenctrl/hvm-context.ts';

/** Returns the HVM_CONTEXT of a save file that Xen wrote. */
async function contextOf(name: string): Promise<Uint8Array> {
  const bytes = gunzipSync(readFileSync(`fixtures/savefmt/${name}.xlsave.gz`));
  for await (const item of readStream(new BufferSource(bytes))) {
    if (item.kind === 'libxc-record' && item.record.name === 'HVM_CONTEXT') return item.record.data;
  }
  return expect.unreachable(`${name} has no HVM context`);
}

test.each(['hvm', 'pvh'])(
  'a %s guest that runs has paging on; without it, it has not booted',
  async (name) => {
    const context = Uint8Array.from(await contextOf(name));
    expect(pagingIsOn(context)).toBe(true);
    const view = new DataView(context.buffer);
    const cpu = 8 + view.getUint32(4, true);
    expect(view.getUint16(cpu, true)).toBe(2);
    const cr0 = cpu + 8 + 512 + 18 * 8;
    // PE, ET and PG at least.
    expect(view.getUint32(cr0, true) & 0x11).toBe(0x11);
    view.setUint32(cr0, 0x11, true);
    expect(pagingIsOn(context)).toBe(false);
  },
);

test('a context that is truncated or empty says nothing', async () => {
  expect(pagingIsOn(new Uint8Array(0))).toBeUndefined();
  expect(pagingIsOn((await contextOf('pvh')).subarray(0, 600))).toBeUndefined();
});

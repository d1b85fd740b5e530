// A second encoder, written from the specifications alone. It shares nothing with src/savefmt.

/** Parses hexadecimal; blanks are for the reader. */
export function hexBytes(...text: string[]): Uint8Array {
  return new Uint8Array(Buffer.from(text.join('').replace(/\s/g, ''), 'hex'));
}

export function join(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

function u16(value: number): number[] {
  return [value & 255, (value >> 8) & 255];
}

export function u32(value: number): number[] {
  return [...u16(value & 0xffff), ...u16(value >>> 16)];
}

export function u64(value: bigint): number[] {
  return [...u32(Number(value & 0xffffffffn)), ...u32(Number(value >> 32n))];
}

/** Encodes type, length, body, zeros. */
export function record(type: number, body: Uint8Array | number[] = []): Uint8Array {
  const padding = (8 - (body.length % 8)) % 8;
  return Uint8Array.from([...u32(type), ...u32(body.length), ...body, ...Array(padding).fill(0)]);
}

export function page(fill: number): Uint8Array {
  return new Uint8Array(4096).fill(fill);
}

/** Encodes entries of [pfn, type, page if the type has data]. */
export function pageData(...entries: [pfn: number, type: number, fill?: number][]): Uint8Array {
  const words = entries.flatMap(([pfn, type]) => u64((BigInt(type) << 60n) | BigInt(pfn)));
  const pages = entries.flatMap(([, , fill]) => (fill === undefined ? [] : [page(fill)]));
  const length = 8 + words.length + pages.length * 4096;
  return join(
    Uint8Array.from([...u32(1), ...u32(length), ...u32(entries.length), ...u32(0), ...words]),
    ...pages,
  );
}

export const configJson = '{\n    "c_info": {\n        "type": "pvh"\n    }\n}\n';

export function xlHeader(json = configJson): Uint8Array {
  const config = Buffer.from(`${json}\0`);
  return join(
    Buffer.from('Xen saved domain, xl format\n \0 \r', 'latin1'),
    Uint8Array.from([4, 3, 2, 1, ...u32(3), ...u32(0), ...u32(4 + config.length), ...u32(config.length)]),
    config,
  );
}

export const libxlHeader = hexBytes('4c6962786c466d74', '00000002', '00000000');

/** Encodes the image header and the domain header. */
export function libxcHeaders(type: 1 | 2, version = 3): Uint8Array {
  return join(
    hexBytes('ffffffffffffffff', '58454e46', `0000000${version}`, '0000', '0000', '00000000'),
    Uint8Array.from([...u32(type), ...u16(12), ...u16(0), ...u32(4), ...u32(20)]),
  );
}

export const hvmState = [
  record(0x8, [...u32(2), ...u32(2300000), ...u64(123456789012n), ...u32(1), ...u32(0)]),
  record(0x9, [1, 2, 3, 4, 5]),
  record(0xa, [...u32(2), ...u32(0), ...u64(1n), ...u64(0xfeffcn), ...u64(2n), ...u64(5n)]),
];

export const cpuPolicy = [
  record(0x11, [0, 0xffffffff, 13, 0x756e6547, 0x6c65746e, 0x49656e69].flatMap(u32)),
  record(0x12, [...u32(0xce), ...u32(0), ...u64(0x80000000n)]),
];

/** Makes libxc's part for an HVM guest of three pages. */
export function hvmContext(version = 3): Uint8Array {
  return join(
    libxcHeaders(2, version),
    ...(version === 3 ? [...cpuPolicy, record(0x10)] : []),
    pageData([0, 0, 0xaa], [1, 0xf], [2, 0, 0xbb]),
    pageData([7, 0, 0xcc]),
    ...hvmState,
    record(0),
  );
}

/** Makes libxc's part for a PV guest of one vCPU. */
export function pvContext(version = 3): Uint8Array {
  return join(
    libxcHeaders(1, version),
    record(0x2, [8, 4, 0, 0, 0, 0, 0, 0]),
    ...(version === 3 ? [...cpuPolicy, record(0x10)] : []),
    record(0x3, [...u32(0), ...u32(1023), ...u64(3n), ...u64(4n)]),
    pageData([0, 0, 1], [3, 0x1, 2], [4, 0x9, 3], [5, 0xc, 4], [6, 0xd], [8, 0xe]),
    hvmState[0] ?? new Uint8Array(),
    record(0x7, page(9)),
    record(0x4, [...u32(0), ...u32(0), ...new Array(5168).fill(7)]),
    record(0x5, [...u32(0), ...u32(0), ...new Array(60).fill(8)]),
    record(0x6, [...u32(0), ...u32(0), ...new Array(32).fill(6)]),
    record(0xc, [...u32(0), ...u32(0), ...u32(0x10), ...u32(0), ...u64(99n)]),
    record(0),
  );
}

/** Makes a whole file of xl. */
export function saveFile(context: Uint8Array, ...libxlRecords: Uint8Array[]): Uint8Array {
  return join(xlHeader(), libxlHeader, record(1), context, ...libxlRecords, record(0));
}

/** Makes the file of an HVM guest with a device model. */
export function hvmFile(): Uint8Array {
  const strings = Buffer.from('physmap/1/name\0vga.ram\0physmap/1/size\x00800000\0');
  return saveFile(
    hvmContext(),
    record(2, [...u32(2), ...u32(0), ...strings]),
    record(3, [...u32(2), ...u32(0), ...Buffer.from('QEVM!')]),
  );
}

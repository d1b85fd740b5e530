// binary-parser 2.3.0 ships no types for its ES module; this is the part that is used.
declare module 'binary-parser' {
  export class Parser {
    endianness(order: 'little' | 'big'): this;
    uint8(name: string): this;
    uint16(name: string): this;
    uint32(name: string): this;
    uint64(name: string): this;
    parse(bytes: Uint8Array): unknown;
  }
}

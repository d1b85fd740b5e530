// Types for the part of binary-parser that is used: version 2.3.0 ships none for its ES module.
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

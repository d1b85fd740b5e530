/** Fixed layouts of integers, each declared once for parser and encoder. */
import { Parser } from 'binary-parser';

/** Width of an unsigned integer; `u64` is a bigint, the others are numbers. */
type Width = 'u8' | 'u16' | 'u32' | 'u64';

type Fields = Readonly<Record<string, Width>>;

/** The value that a table of fields describes. */
export type FixedValue<F extends Fields> = {
  readonly [Name in keyof F]: F[Name] extends 'u64' ? bigint : number;
};

/** A sequence of integers without gaps, with its parser (by binary-parser) and its encoder. */
export interface Fixed<F extends Fields> {
  /** Length in bytes. */
  readonly size: number;
  /**
   * Parses the first `size` bytes.
   * @throws {RangeError} If `bytes` is shorter than `size`.
   */
  parse(bytes: Uint8Array): FixedValue<F>;
  /**
   * Encodes a value.
   * @throws {RangeError} If a value does not fit its field.
   */
  encode(value: FixedValue<F>): Uint8Array;
}

const WIDTH_BYTES: Readonly<Record<Width, number>> = { u8: 1, u16: 2, u32: 4, u64: 8 };

/** Declares a layout by its fields, in the order of the bytes. */
export function fixed<const F extends Fields>(order: 'little' | 'big', fields: F): Fixed<F> {
  const table = Object.entries(fields);
  const parser = new Parser().endianness(order);
  for (const [name, width] of table) {
    if (width === 'u8') parser.uint8(name);
    else if (width === 'u16') parser.uint16(name);
    else if (width === 'u32') parser.uint32(name);
    else parser.uint64(name);
  }
  const size = table.reduce((sum, [, width]) => sum + WIDTH_BYTES[width], 0);
  const little = order === 'little';
  return {
    size,
    parse: (bytes) => parser.parse(bytes) as FixedValue<F>,
    encode(value) {
      const bytes = new Uint8Array(size);
      const view = new DataView(bytes.buffer);
      const values: Readonly<Record<string, number | bigint>> = value;
      let at = 0;
      for (const [name, width] of table) {
        const number = BigInt(values[name] ?? -1);
        if (BigInt.asUintN(WIDTH_BYTES[width] * 8, number) !== number) {
          throw new RangeError(`${name} does not fit into ${width}: ${String(values[name])}`);
        }
        if (width === 'u8') view.setUint8(at, Number(number));
        else if (width === 'u16') view.setUint16(at, Number(number), little);
        else if (width === 'u32') view.setUint32(at, Number(number), little);
        else view.setBigUint64(at, number, little);
        at += WIDTH_BYTES[width];
      }
      return bytes;
    },
  };
}

/** Concatenates byte arrays. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

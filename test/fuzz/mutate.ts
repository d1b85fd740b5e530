/** Numbers that are the same for the same seed: xorshift of 32 bits. Each run has its own sequence. */
export class Random {
  #state: number;

  constructor(seed: number, run: number) {
    this.#state = (Math.imul(seed ^ 0x9e3779b9, 0x85ebca6b) ^ Math.imul(run + 1, 0xc2b2ae35)) | 0 || 1;
    for (let i = 0; i < 8; i++) this.below(2);
  }

  /** Returns a whole number from 0 up to, but not including, `limit`, which is at most 2^32. */
  below(limit: number): number {
    this.#state ^= this.#state << 13;
    this.#state ^= this.#state >>> 17;
    this.#state ^= this.#state << 5;
    return Math.floor(((this.#state >>> 0) / 2 ** 32) * limit);
  }

  pick<T>(choices: readonly T[]): T {
    const choice = choices[this.below(choices.length)];
    if (choice === undefined) throw new RangeError('nothing to choose from');
    return choice;
  }
}

/** Numbers that often break programs. */
const EDGES: readonly bigint[] = [
  0n,
  1n,
  7n,
  8n,
  0x7fn,
  0xffn,
  0x7fffn,
  0xffffn,
  0x7fff_ffffn,
  0x8000_0000n,
  0xffff_fff8n,
  0xffff_ffffn,
  2n ** 52n,
  2n ** 53n,
  2n ** 63n,
  2n ** 64n - 1n,
];

/** What the changes may use. */
export interface Material {
  /** Good inputs. */
  readonly seeds: readonly Uint8Array[];
  /** Tokens of the language; empty for binary formats. */
  readonly words: readonly Uint8Array[];
  /** Offsets below this, where changes matter most, are chosen half of the time. */
  readonly head: number;
  /** Maximum length of an input in bytes. */
  readonly longest: number;
}

/** Returns a good input with one to five changes, most of them small. */
export function mutate(random: Random, material: Material): Uint8Array {
  let bytes: Uint8Array = random.pick(material.seeds).slice();
  for (let left = 1 + random.below(random.below(3) === 0 ? 5 : 2); left > 0; left--) {
    bytes = change(random, bytes, material);
  }
  return bytes.length > material.longest ? bytes.subarray(0, material.longest) : bytes;
}

function change(random: Random, bytes: Uint8Array, { seeds, words, head }: Material): Uint8Array {
  const place = (): number =>
    random.below(1 + (random.below(2) === 0 ? Math.min(head, bytes.length) : bytes.length));
  const length = (): number => random.below(random.pick([2, 9, 65, 4097]));
  const at = place();
  switch (random.below(words.length > 0 ? 12 : 9)) {
    case 0:
    case 1:
      if (at < bytes.length) bytes[at] = (bytes[at] ?? 0) ^ (1 << random.below(8));
      return bytes;
    case 2:
      if (at < bytes.length) bytes[at] = random.below(256);
      return bytes;
    case 3:
    case 4:
      return setNumber(random, bytes, at);
    case 5:
      return bytes.subarray(0, at);
    case 6:
      return join(bytes.subarray(0, at), bytes.subarray(at + length()));
    case 7: {
      // The same part twice, or the same part elsewhere.
      const from = place();
      return join(bytes.subarray(0, at), bytes.subarray(from, from + length()), bytes.subarray(at));
    }
    case 8: {
      const other = random.pick(seeds);
      return join(bytes.subarray(0, at), other.subarray(random.below(other.length + 1)));
    }
    default: {
      const word = random.pick(words);
      const gone = random.below(2) === 0 ? 0 : word.length;
      const times = random.below(40) === 0 ? 1 + random.below(600) : 1;
      return join(
        bytes.subarray(0, at),
        ...new Array<Uint8Array>(times).fill(word),
        bytes.subarray(at + gone),
      );
    }
  }
}

/** Writes an edge value, or one next to it, to 1, 2, 4 or 8 bytes, in either byte order. */
function setNumber(random: Random, bytes: Uint8Array, at: number): Uint8Array {
  const width = random.pick([1, 2, 4, 8]);
  const aligned = at - (random.below(4) === 0 ? 0 : at % width);
  if (aligned + width > bytes.length) return bytes;
  let value = random.pick(EDGES) + BigInt(random.below(3) - 1);
  const little = random.below(4) > 0;
  for (let i = 0; i < width; i++) {
    bytes[aligned + (little ? i : width - 1 - i)] = Number(BigInt.asUintN(8, value));
    value >>= 8n;
  }
  return bytes;
}

function join(...parts: Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat(parts));
}

/** Encodes a text as UTF-8. */
export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/**
 * Writes gfns as an array of xen_pfn_t (64 bits, little-endian): the low and the high half of each word.
 * @param words the array to write to. Default: a new one.
 */
export function toWords(
  gfns: Uint32Array,
  words: Uint32Array = new Uint32Array(2 * gfns.length),
): Uint32Array {
  for (let i = 0; i < gfns.length; i++) {
    words[2 * i] = gfns[i] ?? 0;
    words[2 * i + 1] = 0;
  }
  return words;
}

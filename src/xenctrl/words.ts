/** gfns as an array of xen_pfn_t (64 bits, little-endian): the low and the high half of each word. */
export function toWords(gfns: Uint32Array): Uint32Array {
  const words = new Uint32Array(2 * gfns.length);
  for (let i = 0; i < gfns.length; i++) words[2 * i] = gfns[i] ?? 0;
  return words;
}

/**
 * Returns the order in which `count` paths run in a round: a Williams design (E. J. Williams, 1949). In
 * `count` rounds, or twice as many for an odd `count`, each path is equally often at each place and after
 * each other path. Leftovers (a warm cache, a busy disk) and drift then affect all paths alike.
 * @param round counted from 0
 * @returns indices from 0 to `count - 1`
 */
export function roundOrder(count: number, round: number): readonly number[] {
  const odd = count % 2 === 1;
  const shift = odd ? Math.floor(round / 2) : round;
  const order = Array.from({ length: count }, (_, place) => {
    // 0, 1, count - 1, 2, count - 2, …
    const step = place % 2 === 1 ? (place + 1) / 2 : count - place / 2;
    return (step + shift) % count;
  });
  return odd && round % 2 === 1 ? order.reverse() : order;
}

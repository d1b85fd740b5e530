/**
 * In which order `count` things take their turns in a round, so that what one leaves behind (a warm cache, a busy disk)
 * and what drifts falls on all alike: a Williams design (E. J. Williams, 1949). In `count` rounds, or twice as many for
 * an odd `count`, each stands equally often in each place and behind each other.
 * @param round from 0
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

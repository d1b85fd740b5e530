/** Guesses the word that was meant. */

/** Words are compared up to here. */
const MAX_LENGTH = 80;

/**
 * Returns the word that was probably meant; `undefined` if none is near.
 * @param known what there is
 */
export function nearest(word: string, known: readonly string[]): string | undefined {
  const plain = plainOf(word);
  const [best] = known
    .map((one) => ({ one, distance: editDistance(plain, plainOf(one)) }))
    .sort((a, b) => a.distance - b.distance);
  return best !== undefined && best.distance <= Math.max(1, best.one.length / 3) ? best.one : undefined;
}

function plainOf(word: string): string {
  return word.slice(0, MAX_LENGTH).toLowerCase().replaceAll(/[.-]/g, '_');
}

/** Returns the Levenshtein distance. */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
